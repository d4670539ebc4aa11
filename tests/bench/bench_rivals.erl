%% @doc `publish/3' with the shim on both nodes, against what a BEAM user would pick instead.
%%
%% Every system has publishers with a window of messages under way, which subscribers acknowledge
%% from node to node, so that nobody wins by queueing. Processor time is that of both nodes and of
%% the gateway.
-module(bench_rivals).
-behaviour(bench).

-export([title/0, run/1]).

-define(APPLICATION, erl_esdb_gater).
-define(CHANNEL, esdb_channel_events).
-define(RIVALS, [phoenix, pg, bare, limit]).
%% There are many cases and many systems.
-define(MOST_MS, 1500).
-define(UNDER_WAY, 65536).              % deliveries
-define(UNDER_WAY_BYTES, 32 bsl 20).
-define(STORES, [list_to_atom("bench_store_" ++ integer_to_list(N)) || N <- lists:seq(1, 1000)]).

-spec title() -> string().
title() -> "publish/3 against Phoenix-like hubs, pg and bare distribution".

-spec run(bench:options()) -> [bench:row() | bench:skipped()] | {skip, string()}.
run(#{gateway := plain}) ->
    {skip, "the shim needs this gateway"};
run(#{gateway := Program} = Options) ->
    case code:which(esdb_channel_server) of
        non_existing -> {skip, "the shim is not compiled"};
        _ -> with(Program, fun(Rig) -> measured(Rig, Options) end)
    end.

%% Two nodes with the shim, which the gateway serves, and two without for the rivals.
with(Program, Fun) ->
    bench_rig:scratch(fun(#{keep := Keep} = Scratch) ->
        Gateway = Keep(gateway(Program, Scratch)),
        ok = bench_rig:await_ready(Gateway),
        Paths = lists:append([["-pa", filename:absname(Dir)]
                              || Dir <- filelib:wildcard("_build/default/lib/*/ebin")]),
        Peer = fun(Role) -> Keep(bench_rig:peer(bench_rig:name(Role), Paths, Scratch)) end,
        Ours = {Peer("here"), Peer("there")},
        Theirs = {Peer("rival_here"), Peer("rival_there")},
        ok = connect(Ours, fun shim/2, Gateway),
        ok = connect(Theirs, fun rival/2, Gateway),
        Fun(#{ours => Ours, theirs => Theirs, gateway => Gateway})
    end).

gateway(Program, #{dir := Dir} = Scratch) ->
    Node = bench_rig:name("gateway") ++ "@127.0.0.1",
    bench_rig:launch(Node, filename:absname(Program),
                     ["start", "--name", Node, "--cookie-file", bench_rig:cookie_file(Scratch),
                      "--data-dir", filename:join(Dir, "data"), "--embedded"],
                     filename:join(Dir, "gateway.log")).

connect({Here, There}, Start, Gateway) ->
    ok = Start(Here, Gateway),
    ok = Start(There, Gateway),
    [NodeHere, NodeThere] = [call(Peer, erlang, node, []) || Peer <- [Here, There]],
    pong = call(Here, net_adm, ping, [NodeThere]),
    ok = call(There, bench_rival, start, [NodeHere]),
    ok = call(Here, bench_rival, start, [NodeThere]).

shim(Peer, #{node := Gateway}) ->
    ok = call(Peer, application, load, [?APPLICATION]),
    ok = call(Peer, application, set_env, [?APPLICATION, gateways, [Gateway]]),
    {ok, _} = call(Peer, application, ensure_all_started, [?APPLICATION]),
    {ok, Gateway} = call(Peer, esdb_gater_link, await_gateway, [10000]),
    ok.

rival(_Peer, _Gateway) -> ok.

measured(Rig, Options) ->
    lists:append([throughput(Rig, Options, Case) || Case <- cases(Options)])
        ++ latency(Rig, Options)
        ++ look_ups(Rig, Options).

%% Publishers, subscribers, bytes, where the subscribers are, and what is wanted against whom.
cases(#{quick := true}) ->
    [{1, 1, 64, there}, {4, 100, 64, there}, {1, 10, 1024, here}];
cases(#{quick := false}) ->
    [{1, 1, 64, there}, {32, 1, 64, there}, {1, 10, 1024, there}, {4, 100, 64, there},
     {4, 100, 16384, there}, {4, 1000, 64, there}, {1, 1, 16384, there},
     {1, 1, 64, here}, {1, 10, 1024, here}].

wanted(phoenix, _Fan, there) -> 1.3;
wanted(pg, 1, there) -> 1.0;
wanted(pg, _Fan, there) -> 4.0;
wanted(limit, 1, there) -> 0.5;
wanted(limit, _Fan, there) -> 0.85;
wanted(pg, 1, here) -> 0.4;
wanted(pg, _Fan, here) -> 0.9;
wanted(_System, _Fan, _Where) -> none.

throughput(Rig, Options, {Publishers, Fan, Size, Where} = Case) ->
    Systems = [ours | [S || S <- ?RIVALS, Where =:= there orelse S =:= pg orelse S =:= phoenix]],
    Sides = maps:from_list([{System, fun() -> measure(System, Rig, Options, Case) end} || System <- Systems]),
    Measured = #{ours := Ours} = bench:alternate(Options, Sides),
    What = lists:flatten(io_lib:format("publish/3, ~b x ~b, ~b B~ts",
                                       [Publishers, Fan, Size, case Where of here -> ", one node"; there -> "" end])),
    Deliveries = [row(What, "deliveries/s", more, deliveries, title_of(System), Ours,
                      maps:get(System, Measured), wanted(System, Fan, Where)) || System <- tl(Systems)],
    Cpu = [row(What ++ ": CPU of all", "s per million", less, cpu, title_of(phoenix), Ours,
               maps:get(phoenix, Measured), case Case of {1, 1, 64, there} -> 0.6; _ -> none end)],
    Deliveries ++ Cpu.

title_of(phoenix) -> "Phoenix-like";
title_of(System) -> atom_to_list(System).

row(What, Unit, Better, Key, Against, Ours, Theirs, Target) ->
    Lost = [io_lib:format("~ts lost ~b", [Who, N])
            || {Who, Side} <- [{"this one", Ours}, {"the other", Theirs}],
               N <- [lists:sum([maps:get(lost, M, 0) || M <- Side])], N > 0],
    Row = #{what => What, unit => Unit, better => Better, against => Against,
            ours => [maps:get(Key, M) || M <- Ours], theirs => [maps:get(Key, M) || M <- Theirs],
            note => lists:flatten(lists:join("; ", Lost))},
    case Target of
        none -> Row;
        _ -> Row#{target => Target}
    end.

measure(System, Rig, #{milliseconds := Wanted}, {Publishers, Fan, Size, Where}) ->
    Milliseconds = min(Wanted, ?MOST_MS),
    {Here, There} = nodes_of(System, Rig),
    Receiver = case Where of here -> Here; there -> There end,
    Window = lists:max([4, lists:min([256, ?UNDER_WAY div (Publishers * Fan),
                                      ?UNDER_WAY_BYTES div (Publishers * Size)])]),
    Topic = topic(),
    Load = #{node => node(), channel => ?CHANNEL, topics => [Topic], publishers => Publishers,
             subscribers => Fan, size => Size, window => Window, chunk => max(1, Window div 4),
             through => System},
    Senders = call(Here, bench_load, publishers, [Load]),
    Subscribers = call(Receiver, bench_load, subscribers, [Load, Senders]),
    ok = call(Here, bench_rival, await_known, [System, Topic, Fan]),
    ok = call(Here, bench_load, go, [Senders]),
    timer:sleep(max(200, Milliseconds div 4)),
    Processes = processes(System, Rig),
    CpuBefore = cpu(Processes),
    {TimeBefore, Before} = call(Receiver, bench_load, sample, []),
    timer:sleep(Milliseconds),
    {TimeAfter, After} = call(Receiver, bench_load, sample, []),
    CpuAfter = cpu(Processes),
    {Sent, _Stalls} = call(Here, bench_load, stop, [Senders]),
    Lost = call(Receiver, bench_load, settle, [Sent * Fan]),
    _ = [call(Receiver, erlang, exit, [Pid, kill]) || Pid <- Subscribers],
    Delivered = max(1, After - Before),
    #{deliveries => Delivered * 1.0e9 / (TimeAfter - TimeBefore),
      cpu => (CpuAfter - CpuBefore) * 1.0e6 / Delivered, lost => Lost}.

nodes_of(ours, #{ours := Nodes}) -> Nodes;
nodes_of(_Rival, #{theirs := Nodes}) -> Nodes.

%% The gateway's share is ours, whether or not it has anything to do.
processes(System, #{gateway := Gateway} = Rig) ->
    {Here, There} = nodes_of(System, Rig),
    Beams = [#{os_pid => list_to_integer(call(Peer, os, getpid, []))} || Peer <- [Here, There]],
    case System of
        ours -> [Gateway | Beams];
        _ -> Beams
    end.

cpu(Processes) -> lists:sum([bench_rig:cpu_seconds(Process) || Process <- Processes]).

topic() -> iolist_to_binary(["bench.", integer_to_list(erlang:unique_integer([positive]))]).

%% 500 messages a second, of one publisher to one subscriber.
latency(Rig, #{milliseconds := Milliseconds} = Options) ->
    Measure = fun(System) -> fun() ->
        {Here, There} = nodes_of(System, Rig),
        Topic = topic(),
        Subscriber = call(There, bench_rival, latency_subscriber, [System, Topic]),
        ok = call(Here, bench_rival, await_known, [System, Topic, 1]),
        ok = call(Here, bench_rival, publish_paced, [System, Topic, 2, max(200, Milliseconds div 2)]),
        timer:sleep(100),
        Times = call(There, bench_rival, latencies, [Subscriber]),
        #{p50 => bench:percentile(Times, 50), p99 => bench:percentile(Times, 99)}
    end end,
    #{ours := Ours} = Measured =
        bench:alternate(Options, maps:from_list([{S, Measure(S)} || S <- [ours, pg, phoenix]])),
    [row("publish/3, 500 a second: " ++ Name, "us", less, Key, title_of(System), Ours,
         maps:get(System, Measured), Target)
     || {Key, Name, System, Target} <- [{p50, "p50", pg, 2.3}, {p99, "p99", phoenix, 2.0}]].

look_ups(#{ours := {Ours, _}, theirs := {Theirs, _}}, #{milliseconds := Milliseconds} = Options) ->
    ok = call(Ours, bench_rival, register_stores, [ours, ?STORES]),
    ok = call(Theirs, bench_rival, register_stores, [pg, ?STORES]),
    Measure = fun(System, Peer) -> fun() ->
        #{look_ups => call(Peer, bench_rival, look_ups, [System, ?STORES, Milliseconds])}
    end end,
    #{ours := Mine, pg := Pg} = bench:alternate(Options, #{ours => Measure(ours, Ours), pg => Measure(pg, Theirs)}),
    [row("get_workers/1, 1,000 stores", "look-ups/s", more, look_ups, "pg:get_members/2", Mine, Pg, 0.6)].

call(Peer, Module, Function, Arguments) ->
    bench_rig:call(Peer, Module, Function, Arguments, 60000).
