%% @doc How long things take: calls, and critical messages while others flow.
-module(bench_latency).
-behaviour(bench).

-export([title/0, run/1]).

-define(STORE, bench_store).
-define(TOPIC, <<"bench.alarm">>).

-spec title() -> string().
title() -> "round trips, and critical messages under a flood of low ones".

-spec run(bench:options()) -> [bench:row()].
run(Options) ->
    bench_rig:with(Options, fun(Rig) ->
        #{publisher := Publisher} = Rig,
        _ = [ok = bench_rig:call(Publisher, bench_load, workers,
                                 [maps:get(node, maps:get(Side, Rig)), ?STORE, 10], 10000)
             || Side <- [ours, theirs]],
        calls(Rig, Options, "get_workers, 10 workers", esdb_gater_worker_registry,
              {get_workers, ?STORE}, [{50, none}, {99, none}])
        ++ calls(Rig, Options, "publish call, nobody subscribed", esdb_channel_events,
                 {publish, <<"nobody">>, binary:copy(<<"x">>, 64)}, [{50, 0.8}, {99.9, 0.6}])
        ++ alarms(Rig, Options, "critical message, idle", none)
        ++ alarms(Rig, Options, "critical message, flood of low 1 KiB", {4, 1024, 1024})
        ++ alarms(Rig, Options, "critical message, low 8 MiB messages", {1, 8 bsl 20, 2})
    end).

calls(#{publisher := Publisher} = Rig, Options, What, Server, Request, Percents) ->
    #{milliseconds := Milliseconds} = Options,
    Measure = fun(Side) ->
        Node = maps:get(node, maps:get(Side, Rig)),
        fun() ->
            bench_rig:call(Publisher, bench_load, calls,
                           [Milliseconds, {Server, Node}, {Request, [P || {P, _} <- Percents]}],
                           Milliseconds + 30000)
        end
    end,
    rows(What ++ ", round trip", Percents,
         bench:alternate(Options, #{ours => Measure(ours), theirs => Measure(theirs)})).

%% A flood is so many publishers of messages of so many bytes, so many of them under way each.
alarms(Rig, Options, What, Flood) ->
    Measure = fun(Side) ->
        fun() -> alarm_latencies(Rig, maps:get(Side, Rig), Options, Flood) end
    end,
    rows(What, [{50, none}, {99, none}],
         bench:alternate(Options, #{ours => Measure(ours), theirs => Measure(theirs)})).

alarm_latencies(Rig, #{node := Node}, #{milliseconds := Milliseconds}, Flood) ->
    #{publisher := Publisher, subscriber := Subscriber, alarm := Alarm} = Rig,
    Call = fun(Peer, Function, Arguments) ->
        bench_rig:call(Peer, bench_load, Function, Arguments, Milliseconds + 60000)
    end,
    Alarms = #{node => Node, channel => esdb_channel_alerts, topic => ?TOPIC,
               secret => bench_rig:secret(), every_ms => 2, for_ms => Milliseconds},
    Stop = start_flood(Call, Publisher, Subscriber, Node, Flood, Milliseconds),
    Listener = Call(Subscriber, alarm_subscriber, [Node, esdb_channel_alerts, ?TOPIC]),
    Sent = Call(Alarm, alarms, [Alarms]),
    Stop(),
    timer:sleep(100),
    Latencies = Call(Subscriber, latencies, [Listener]),
    %% One that got lost took for ever.
    Missing = [1.0e9 || _ <- lists:seq(1, Sent - length(Latencies))],
    All = Missing ++ Latencies,
    [bench:percentile(All, 50), bench:percentile(All, 99)].

start_flood(_, _, _, _, none, _) ->
    fun() -> ok end;
start_flood(Call, Publisher, Subscriber, Node, {Count, Size, Window}, Milliseconds) ->
    %% So many topics that their rate limit does not slow the flood down.
    Topics = [<<"bench.", (integer_to_binary(N))/binary>> || N <- lists:seq(1, 1024)],
    Load = #{node => Node, channel => esdb_channel_logging, topics => Topics,
             publishers => Count, subscribers => 1, size => Size,
             window => Window, chunk => max(1, Window div 4)},
    Publishers = Call(Publisher, publishers, [Load]),
    Subscribers = Call(Subscriber, subscribers, [Load, Publishers]),
    ok = Call(Publisher, go, [Publishers]),
    timer:sleep(Milliseconds div 4),
    fun() ->
        {Sent, _} = Call(Publisher, stop, [Publishers]),
        _ = Call(Subscriber, settle, [Sent]),
        ok = Call(Subscriber, forget, [Load, Subscribers])
    end.

rows(What, Percents, #{ours := Ours, theirs := Theirs}) ->
    [
        begin
            Row = #{what => What ++ io_lib:format(", p~w", [Percent]), unit => "us",
                    better => less, against => "Erlang gateway",
                    ours => [lists:nth(N, Times) || Times <- Ours],
                    theirs => [lists:nth(N, Times) || Times <- Theirs]},
            case Target of none -> Row; _ -> Row#{target => Target} end
        end
        || {N, {Percent, Target}} <- lists:zip(lists:seq(1, length(Percents)), Percents)
    ].
