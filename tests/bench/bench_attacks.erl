%% @doc What others notice while one peer asks a gateway for more than its share.
%%
%% The attacks are those of `fairness_SUITE' (`tests/ct/gater_attacks.erl'), by peers on a BEAM of their
%% own. Another node publishes and registers, one call after the other.
-module(bench_attacks).
-behaviour(bench).

-export([title/0, run/1, calls/2, start/4, stop/1]).

-define(EVENTS, esdb_channel_events).
-define(REGISTRY, esdb_gater_worker_registry).
%% What the 99th percentile may be above that of an idle gateway.
-define(LIMIT_MS, 25).
-define(PREPARE_MS, 300000).

-spec title() -> string().
title() -> "others while one peer asks for more than its share".

-spec run(bench:options()) -> [bench:row()].
run(#{gateway := plain}) ->
    [{skip, "the Erlang gateway is not made for it"}];
run(#{gateway := Program, quick := Quick, milliseconds := Milliseconds}) ->
    lists:append([attacked(Kind, Program, Quick, Milliseconds) || Kind <- gater_attacks:kinds()]).

attacked(Kind, Program, Quick, Milliseconds) ->
    bench_rig:scratch(fun(#{cookie := Cookie, dir := Dir, keep := Keep} = Scratch) ->
        Node = bench_rig:name("attacked") ++ "@127.0.0.1",
        Gateway = bench_rig:launch(Node, Program, ["start", "--name", Node, "--cookie-file",
            bench_rig:cookie_file(Scratch), "--data-dir", filename:join(Dir, "data")],
            filename:join(Dir, "attacked.log")),
        try
            ok = bench_rig:await_ready(Gateway),
            [Other, Attacker] = [Keep(bench_rig:peer(bench_rig:name(Role), [], Scratch))
                                 || Role <- ["other", "attacker"]],
            Measure = fun() ->
                bench_rig:call(Other, ?MODULE, calls, [list_to_atom(Node), Milliseconds],
                               2 * Milliseconds + 60000)
            end,
            {IdlePublish, IdleRegister} = Measure(),
            Attack = bench_rig:call(Attacker, ?MODULE, start,
                [Kind, Node, Cookie, size_of(Kind, Quick)], ?PREPARE_MS),
            {Publish, Register} = Measure(),
            ok = bench_rig:call(Attacker, ?MODULE, stop, [Attack], 10000),
            Row = fun(What, Attacked, Idle) ->
                #{what => io_lib:format("~ts: ~ts, p99 above idle", [Kind, What]), unit => "ms",
                  better => less, against => "its p99 when idle", limit => ?LIMIT_MS,
                  ours => [max(0, Attacked - Idle) / 1000], theirs => [Idle / 1000]}
            end,
            [Row("publish", Publish, IdlePublish), Row("register and unregister", Register, IdleRegister)]
        after
            bench_rig:kill(Gateway)
        end
    end).

size_of(Kind, true) -> size_of(Kind, false) div 10;
size_of(list_stores, false) -> 24000;
size_of(get_local_workers, false) -> 400000;
size_of(signed_maps, false) -> 143000;
size_of(subscriptions, false) -> 1000000;
size_of(_, false) -> 300000.

%% @doc The 99th percentiles, in microseconds, of publishing and of registering and unregistering. Runs on
%% a node of the rig.
-spec calls(node(), pos_integer()) -> {Publish :: float(), Register :: float()}.
calls(Node, Milliseconds) ->
    Timed = fun(Fun) -> bench:percentile(bench:time_calls(Milliseconds, Fun), 99) end,
    Pid = spawn(fun() -> receive stop -> ok end end),
    Publish = Timed(fun() ->
        ok = gen_server:call({?EVENTS, Node}, {publish, <<"other">>, 1}, infinity)
    end),
    Register = Timed(fun() ->
        ok = gen_server:call({?REGISTRY, Node}, {register, other, Pid}, infinity),
        ok = gen_server:call({?REGISTRY, Node}, {unregister, other, Pid}, infinity)
    end),
    exit(Pid, kill),
    {Publish, Register}.

%% @doc Starts an attack, in a process of its own that stays. Runs on a node of the rig.
-spec start(gater_attacks:kind(), string(), string(), pos_integer()) -> pid().
start(Kind, Node, Cookie, Size) ->
    [Name, _] = string:split(Node, "@"),
    {port, Port, _} = erl_epmd:port_please(Name, {127, 0, 0, 1}),
    Self = self(),
    Pid = spawn(fun() ->
        Attack = gater_attacks:start(Kind, {Port, Cookie}, "attack", Size),
        Self ! {self(), started},
        receive {stop, From} -> ok = gater_attacks:stop(Attack), From ! {self(), stopped} end
    end),
    receive {Pid, started} -> Pid end.

%% @doc Ends an attack. Runs on a node of the rig.
-spec stop(pid()) -> ok.
stop(Pid) ->
    Pid ! {stop, self()},
    receive {Pid, stopped} -> ok end.
