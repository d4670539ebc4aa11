%% @doc How long things take: calls, and critical messages while others flow.
-module(bench_latency).
-behaviour(bench).

-export([title/0, run/1]).

-define(STORE, bench_store).
-define(TOPIC, <<"bench.alarm">>).
%% Until a flood is even, at the least.
-define(WARM_MS, 250).

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
        ++ alarms(Rig, Options)
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

%% A flood is so many publishers of messages of so many bytes, so many of them under way each,
%% at a rate that both gateways can bear or as fast as they can.
alarms(Rig, #{quick := Quick} = Options) ->
    %% Little less than the longest message there can be.
    Megabytes = case Quick of true -> 16; false -> 60 end,
    Steady = #{publishers => 4, size => 1024, window => 1024, chunk => 16, rate => 50000},
    Full = #{publishers => 4, size => 1024, window => 1024, chunk => 256},
    Long = #{publishers => 1, size => Megabytes bsl 20, window => 2, chunk => 1},
    [Idle, Fully, Passing | Steadily] = [
        bench:alternate(Options, maps:from_list(
            [{Side, latencies_of(Side, Rig, Options, Flood)} || Side <- Sides]))
        || {Flood, Sides} <- [{none, [ours, theirs, past]}, {Full, [ours, theirs]},
                              {Long, [ours, theirs, past]}
                              | [{Steady, [ours, theirs]} || not Quick]]
    ],
    Flow = io_lib:format("low ~b MiB messages flow", [Megabytes]),
    alarm_rows("critical message, idle", Idle)
    ++ lists:append([alarm_rows("critical message, 50000/s low 1 KiB", S) || S <- Steadily])
    ++ alarm_rows("critical message, flood of low 1 KiB", Fully)
    ++ [flood_row("low 1 KiB messages delivered meanwhile", 1, Fully)]
    ++ alarm_rows("critical message, " ++ Flow, Passing)
    ++ [flood_row("low MiB delivered meanwhile", Megabytes, Passing)
        | added_rows(Flow, Idle, Passing)].

alarm_rows(What, Measured) ->
    Times = maps:map(fun(_, Side) -> [[P50, P99] || #{p50 := P50, p99 := P99} <- Side] end, Measured),
    rows(What, [{50, none}, {99, none}], Times).

flood_row(What, Each, #{ours := Ours, theirs := Theirs}) ->
    #{what => What, unit => "per second", better => more, against => "Erlang gateway",
      ours => [Each * F || #{flood := F} <- Ours], theirs => [Each * F || #{flood := F} <- Theirs]}.

%% What the flow of long messages adds; to a message sent past all gateways it is what the
%% subscriber's node and the machine add.
added_rows(Flow, Idle, Passing) ->
    Added = fun(Side) ->
        [After - Before || {#{p99 := Before}, #{p99 := After}}
                               <- lists:zip(maps:get(Side, Idle), maps:get(Side, Passing))]
    end,
    Row = #{what => "critical message, " ++ Flow ++ ", p99 above idle", unit => "us",
            better => less, ours => Added(ours)},
    [Row#{limit => 5000, against => "Erlang gateway", theirs => Added(theirs)},
     Row#{against => "sent past the gateway", theirs => Added(past)}].

%% Past the gateway: the flow goes through ours, critical messages go straight from their
%% sender to the subscriber.
latencies_of(past, #{ours := Gateway} = Rig, Options, Flood) ->
    fun() -> alarm_latencies(Rig, Gateway#{past => true}, Options, Flood) end;
latencies_of(Side, Rig, Options, Flood) ->
    fun() -> alarm_latencies(Rig, maps:get(Side, Rig), Options, Flood) end.

alarm_latencies(Rig, #{node := Node} = Gateway, #{milliseconds := Milliseconds}, Flood) ->
    #{publisher := Publisher, subscriber := Subscriber, alarm := Alarm} = Rig,
    Call = fun(Peer, Function, Arguments) ->
        bench_rig:call(Peer, bench_load, Function, Arguments, Milliseconds + 60000)
    end,
    Alarms = #{node => Node, channel => esdb_channel_alerts, topic => ?TOPIC,
               secret => bench_rig:secret(), every_ms => 2, for_ms => Milliseconds},
    Stop = start_flood(Call, Publisher, Subscriber, Node, Flood, Milliseconds),
    Listener = Call(Subscriber, alarm_subscriber, [Node, esdb_channel_alerts, ?TOPIC]),
    Sent = Call(Alarm, alarms, [case Gateway of
        #{past := true} -> Alarms#{past => Listener};
        #{} -> Alarms
    end]),
    Rate = Stop(),
    timer:sleep(100),
    Latencies = Call(Subscriber, latencies, [Listener]),
    %% One that got lost took for ever.
    Missing = [1.0e9 || _ <- lists:seq(1, Sent - length(Latencies))],
    All = Missing ++ Latencies,
    #{p50 => bench:percentile(All, 50), p99 => bench:percentile(All, 99), flood => Rate}.

start_flood(_, _, _, _, none, _) ->
    fun() -> 0 end;
start_flood(Call, Publisher, Subscriber, Node, Flood, Milliseconds) ->
    %% So many topics that their rate limit does not slow the flood down.
    Topics = [<<"bench.", (integer_to_binary(N))/binary>> || N <- lists:seq(1, 1024)],
    Load = Flood#{node => Node, channel => esdb_channel_logging, topics => Topics,
                  subscribers => 1},
    Publishers = Call(Publisher, publishers, [Load]),
    Subscribers = Call(Subscriber, subscribers, [Load, Publishers]),
    ok = Call(Publisher, go, [Publishers]),
    timer:sleep(max(?WARM_MS, Milliseconds div 4)),
    {TimeBefore, Before} = Call(Subscriber, sample, []),
    fun() ->
        {TimeAfter, After} = Call(Subscriber, sample, []),
        {Sent, _} = Call(Publisher, stop, [Publishers]),
        _ = Call(Subscriber, settle, [Sent]),
        ok = Call(Subscriber, forget, [Load, Subscribers]),
        (After - Before) * 1.0e9 / (TimeAfter - TimeBefore)
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
