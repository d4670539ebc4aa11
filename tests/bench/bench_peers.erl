%% @doc What many idle connections cost: memory, and processor time for the ticks.
%%
%% The peers are simulated: sockets that go through the handshake with the flags of a BEAM and
%% answer every tick with one. A real node would take tens of megabytes.
-module(bench_peers).
-behaviour(bench).

-export([title/0, run/1, connect/2, count/1]).

-define(PEERS, 1000).
%% A period of ticks and a little more.
-define(QUICK_MS, 16000).
-define(FULL_MS, 30000).
-define(TIMEOUT_MS, 20000).
%% What OTP 25 and 27 offer.
-define(FLAGS, 16#d07df7fbd).

-spec title() -> string().
title() -> "idle connections".

-spec run(bench:options()) -> [bench:row()].
run(#{quick := Quick} = Options) ->
    Milliseconds = case Quick of true -> ?QUICK_MS; false -> ?FULL_MS end,
    Rounds = case Quick of true -> 1; false -> 3 end,
    %% A rig for every round: memory that was given back is not taken again. Both gateways wait for
    %% their ticks at the same time, as there is next to nothing to do for them.
    {Ours, Theirs} = lists:unzip([
        bench_rig:with(Options, fun(Rig) -> measure(Rig, Milliseconds) end)
        || _ <- lists:seq(1, Rounds)
    ]),
    Row = fun(Key, What, Unit, Limit) ->
        #{what => io_lib:format("~b idle connections: ~ts", [?PEERS, What]), unit => Unit,
          better => less, limit => Limit, against => "Erlang gateway",
          ours => [maps:get(Key, M) || M <- Ours], theirs => [maps:get(Key, M) || M <- Theirs]}
    end,
    [Row(bytes, "memory", "KiB each", 30), Row(cpu, "processor time, ticks included", "% of a core", 1)].

measure(#{ours := Ours, theirs := Theirs} = Rig, Milliseconds) ->
    Begun = [connected(Rig, Gateway) || Gateway <- [Ours, Theirs]],
    timer:sleep(1000),
    Cpu = [bench_rig:cpu_seconds(Gateway) || Gateway <- [Ours, Theirs]],
    timer:sleep(Milliseconds),
    [A, B] = [ended(Rig, Connected, Before, Milliseconds)
              || {Connected, Before} <- lists:zip(Begun, Cpu)],
    {A, B}.

connected(#{subscriber := Holder}, #{node := Node} = Gateway) ->
    Before = bench_rig:resident_bytes(Gateway),
    {Gateway, Before, bench_rig:call(Holder, ?MODULE, connect, [Node, ?PEERS], 120000)}.

ended(#{subscriber := Holder}, {Gateway, Before, Peers}, CpuBefore, Milliseconds) ->
    Cpu = bench_rig:cpu_seconds(Gateway) - CpuBefore,
    Bytes = bench_rig:resident_bytes(Gateway) - Before,
    ?PEERS = bench_rig:call(Holder, ?MODULE, count, [Peers], 10000),
    #{bytes => Bytes / ?PEERS / 1024, cpu => Cpu * 1.0e5 / Milliseconds}.

%% @doc Connects so many peers to a gateway. Runs on a node of the rig, whose cookie it uses; a
%% process there holds the connections.
-spec connect(node(), pos_integer()) -> pid().
connect(Node, Count) ->
    [Alive, _] = string:split(atom_to_list(Node), "@"),
    {port, Port, _} = erl_epmd:port_please(Alive, {127, 0, 0, 1}),
    Self = self(),
    {Pid, Ref} = spawn_monitor(fun() ->
        _ = [peer(Port, N) || N <- lists:seq(1, Count)],
        Self ! {connected, self()},
        answer(Count)
    end),
    receive
        {connected, Pid} -> demonitor(Ref, [flush]), Pid;
        {'DOWN', Ref, process, Pid, Reason} -> error(Reason)
    end.

%% @doc The connections that still stand.
-spec count(pid()) -> non_neg_integer().
count(Holder) ->
    Holder ! {count, self()},
    receive {count, Holder, Count} -> Count after ?TIMEOUT_MS -> error(timeout) end.

peer(Port, N) ->
    {ok, Socket} = gen_tcp:connect({127, 0, 0, 1}, Port,
                                   [binary, {active, false}, {packet, 2}, {nodelay, true}]),
    Name = "peer" ++ integer_to_list(N) ++ "@127.0.0.1",
    ok = gen_tcp:send(Socket, [$N, <<?FLAGS:64, N:32, (length(Name)):16>>, Name]),
    {ok, <<"sok">>} = gen_tcp:recv(Socket, 0, ?TIMEOUT_MS),
    {ok, <<$N, _:64, Challenge:32, _/binary>>} = gen_tcp:recv(Socket, 0, ?TIMEOUT_MS),
    Digest = erlang:md5([atom_to_list(erlang:get_cookie()), integer_to_list(Challenge)]),
    ok = gen_tcp:send(Socket, [$r, <<0:32>>, Digest]),
    {ok, <<$a, _:16/binary>>} = gen_tcp:recv(Socket, 0, ?TIMEOUT_MS),
    ok = inet:setopts(Socket, [{packet, 4}, {active, true}]).

answer(Count) ->
    receive
        {tcp, Socket, <<>>} ->
            ok = gen_tcp:send(Socket, <<>>),
            answer(Count);
        {tcp, _, _} ->
            answer(Count);
        {tcp_closed, _} ->
            answer(Count - 1);
        {count, From} ->
            From ! {count, self(), Count},
            answer(Count)
    end.
