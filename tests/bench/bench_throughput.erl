%% @doc How much a gateway delivers, and what that costs it.
-module(bench_throughput).
-behaviour(bench).

-export([title/0, run/1]).
%% For the same with other subscribers.
-export([measure/4, pair/6]).
-export_type([traffic/0, measured/0]).

-type traffic() :: #{
    publishers := pos_integer(),
    subscribers := pos_integer(),
    %% Bytes of a message.
    size := pos_integer(),
    through => gateway | shim,
    subscribe_at => node()
}.
-type measured() :: #{
    %% Per second.
    deliveries := float(),
    %% Processor seconds of the gateway per million deliveries.
    cpu := float(),
    lost := non_neg_integer(), expected := non_neg_integer(), stalls := non_neg_integer()
}.

%% Deliveries that may be under way: less than any lane of the gateway holds.
-define(UNDER_WAY, 65536).
%% Until the flow is even, and what is measured of it, at the least.
-define(WARM_MS, 200).
-define(LEAST_MS, 500).

-spec title() -> string().
title() -> "deliveries per second and their cost, without the shim".

-spec run(bench:options()) -> [bench:row() | bench:skipped()].
run(Options) ->
    bench_rig:with(Options, fun(Rig) ->
        lists:append([rows(Rig, Options, Case) || Case <- cases(Options)])
        ++ [{skip, "rows against the C node: it was not built"} || not is_map_key(cnode, Rig)]
    end).

%% Publishers, subscribers, bytes of a message, targets for deliveries and processor time.
cases(#{quick := true}) ->
    [{32, 1, 64, 1.8, 1 / 3}, {4, 100, 64, 1.0, 0.1}];
cases(#{quick := false}) ->
    [{32, 1, 64, 1.8, 1 / 3},
     {4, 10, 64, 1.3, none}, {4, 100, 64, 1.0, 0.1}, {4, 1000, 64, 1.0, 0.1},
     {4, 10, 1024, 1.3, none}, {4, 100, 1024, 1.0, 0.1}, {4, 1000, 1024, 1.0, 0.1}].

rows(Rig, Options, {Publishers, Subscribers, Size, Target, CpuTarget}) ->
    Traffic = #{publishers => Publishers, subscribers => Subscribers, size => Size},
    Sides = maps:map(
        fun(_, Gateway) -> fun() -> measure(Rig, Gateway, Options, Traffic) end end,
        maps:with([ours, theirs, cnode], Rig)
    ),
    #{ours := Ours, theirs := Theirs} = Measured = bench:alternate(Options, Sides),
    What = lists:flatten(io_lib:format("~b publishers, fan-out ~b, ~b B",
                                       [Publishers, Subscribers, Size])),
    pair(What, "Erlang gateway", Ours, Theirs, Target, CpuTarget)
    ++ case Measured of
        #{cnode := InC} -> pair(What, "C node", Ours, InC, c_target(Subscribers), none);
        #{} -> []
    end.

c_target(1) -> 1.0;
c_target(_) -> none.

%% @doc The rows of what was measured: deliveries, and their cost to the gateway.
-spec pair(string(), string(), [measured()], [measured()], number() | none, number() | none) ->
    [bench:row()].
pair(What, Against, Ours, Theirs, Target, CpuTarget) ->
    Row = fun(Key) ->
        #{against => Against,
          ours => [maps:get(Key, M) || M <- Ours], theirs => [maps:get(Key, M) || M <- Theirs]}
    end,
    Notes = [io_lib:format("~ts lost ~b of ~b, stalled ~b times", [Who, Lost, Sent, Stalls])
             || {Who, Side} <- [{"this one", Ours}, {"the other", Theirs}],
                #{lost := Lost, expected := Sent, stalls := Stalls} <- Side,
                Lost + Stalls > 0],
    [aimed(Target, (Row(deliveries))#{
        what => What, unit => "deliveries/s", better => more,
        note => lists:flatten(lists:join("; ", Notes))}),
     aimed(CpuTarget, (Row(cpu))#{
        what => What ++ ": gateway CPU", unit => "s per million", better => less})].

aimed(none, Row) -> Row;
aimed(Target, Row) -> Row#{target => Target}.

%% @doc Publishes and receives for a while through one of a rig's gateways.
-spec measure(#{publisher := pid(), subscriber := pid(), _ => _}, bench_rig:gateway(), bench:options(), traffic()) -> measured().
measure(#{publisher := Publisher, subscriber := Subscriber}, Gateway, Options, Traffic) ->
    #{milliseconds := Wanted} = Options,
    Milliseconds = max(?LEAST_MS, Wanted),
    #{publishers := P, subscribers := S} = Traffic,
    Window = max(4, min(256, ?UNDER_WAY div (P * S))),
    Load = Traffic#{
        node => maps:get(node, Gateway), channel => esdb_channel_events, topics => [<<"bench">>],
        window => Window, chunk => max(1, Window div 4)
    },
    Call = fun(Peer, Function, Arguments) ->
        bench_rig:call(Peer, bench_load, Function, Arguments, 60000)
    end,
    Publishers = Call(Publisher, publishers, [Load]),
    Subscribers = Call(Subscriber, subscribers, [Load, Publishers]),
    ok = Call(Publisher, go, [Publishers]),
    timer:sleep(max(?WARM_MS, Milliseconds div 4)),
    CpuBefore = bench_rig:cpu_seconds(Gateway),
    {TimeBefore, Before} = Call(Subscriber, sample, []),
    timer:sleep(Milliseconds),
    {TimeAfter, After} = Call(Subscriber, sample, []),
    CpuAfter = bench_rig:cpu_seconds(Gateway),
    {Sent, Stalls} = Call(Publisher, stop, [Publishers]),
    Lost = Call(Subscriber, settle, [Sent * S]),
    ok = Call(Subscriber, forget, [Load, Subscribers]),
    Delivered = max(1, After - Before),
    #{
        deliveries => Delivered * 1.0e9 / (TimeAfter - TimeBefore),
        cpu => (CpuAfter - CpuBefore) * 1.0e6 / Delivered,
        lost => Lost, expected => Sent * S, stalls => Stalls
    }.
