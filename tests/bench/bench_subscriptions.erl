%% @doc What many subscriptions cost: memory, and time when publishing to one of them.
-module(bench_subscriptions).
-behaviour(bench).

-export([title/0, run/1]).

-define(CHANNEL, esdb_channel_events).
-define(PROCESSES, 10).
-define(FEW, 1000).
-define(TOPIC, <<"bench.one">>).

-spec title() -> string().
title() -> "many subscriptions".

-spec run(bench:options()) -> [bench:row()].
run(#{quick := Quick, milliseconds := Milliseconds} = Options) ->
    Topics = case Quick of true -> 10000; false -> 100000 end,
    #{ours := Ours, theirs := Theirs} = bench_rig:both(Options, 3, fun(Rig, Gateway) ->
        measure(Rig, Gateway, Topics, Milliseconds)
    end),
    Count = io_lib:format("~b subscriptions", [Topics * ?PROCESSES]),
    Memory = #{what => Count ++ ": memory", unit => "bytes each", better => less, limit => 250,
               against => "Erlang gateway", ours => [B || #{bytes := B} <- Ours],
               theirs => [B || #{bytes := B} <- Theirs]},
    Publish = #{what => Count ++ ": publish call, p50", unit => "us", better => less,
                target => 1.2, against => "itself, with 1000", ours => [A || #{many := A} <- Ours],
                theirs => [B || #{few := B} <- Ours]},
    [Memory, Publish].

measure(#{publisher := Publisher, subscriber := Subscriber}, Gateway, Topics, Milliseconds) ->
    #{node := Node} = Gateway,
    FewTopics = ?FEW div ?PROCESSES,
    Publish = fun() ->
        [P50] = bench_rig:call(Publisher, bench_load, calls,
                               [Milliseconds, {?CHANNEL, Node}, {{publish, ?TOPIC, <<>>}, [50]}],
                               Milliseconds + 30000),
        P50
    end,
    _ = bench_rig:call(Subscriber, bench_load, subscriber_of, [Node, ?CHANNEL, ?TOPIC], 10000),
    ok = bench_rig:call(Subscriber, bench_load, subscribe_many,
                        [Node, ?CHANNEL, 1, FewTopics, ?PROCESSES], 60000),
    Few = Publish(),
    Before = bench_rig:resident_bytes(Gateway),
    ok = bench_rig:call(Subscriber, bench_load, subscribe_many,
                        [Node, ?CHANNEL, FewTopics + 1, Topics, ?PROCESSES], 300000),
    Bytes = (bench_rig:resident_bytes(Gateway) - Before) / ((Topics - FewTopics) * ?PROCESSES),
    #{few => Few, bytes => Bytes, many => Publish()}.
