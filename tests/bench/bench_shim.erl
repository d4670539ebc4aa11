%% @doc The same deliveries with the shim on the subscribers' node: one copy of a message crosses
%% the wire and a relay hands it out, against the plain gateway, which sends to each pid.
-module(bench_shim).
-behaviour(bench).

-export([title/0, run/1]).

-define(PUBLISHERS, 4).
-define(SUBSCRIBERS, 1000).
-define(APPLICATION, erl_esdb_gater).

-spec title() -> string().
title() -> "deliveries per second and their cost, with the shim".

-spec run(bench:options()) -> [bench:row()] | {skip, string()}.
run(#{gateway := plain}) ->
    {skip, "the shim needs this gateway"};
run(Options) ->
    case code:which(esdb_channel_server) of
        non_existing ->
            {skip, "the shim is not compiled"};
        _ ->
            bench_rig:with(Options, [shim], fun(Rig) ->
                ok = start(Rig),
                lists:append([rows(Rig, Options, Case) || Case <- cases(Options)])
            end)
    end.

%% Links the node with the shim to this gateway.
start(#{shim := Shim, ours := #{node := Gateway}}) ->
    ok = bench_rig:call(Shim, application, load, [?APPLICATION], 5000),
    ok = bench_rig:call(Shim, application, set_env, [?APPLICATION, gateways, [Gateway]], 5000),
    {ok, _} = bench_rig:call(Shim, application, ensure_all_started, [?APPLICATION], 20000),
    {ok, Gateway} = bench_rig:call(Shim, esdb_gater_link, await_gateway, [10000], 20000),
    ok.

%% Bytes of a message, target for deliveries.
cases(#{quick := true}) -> [{64, 2.2}];
cases(#{quick := false}) -> [{64, 2.2}, {1024, 4.5}, {16384, 17.0}].

rows(#{ours := Ours, theirs := Theirs, shim := Shim} = Rig, Options, {Size, Target}) ->
    Traffic = #{publishers => ?PUBLISHERS, subscribers => ?SUBSCRIBERS, size => Size},
    Measured = bench:alternate(Options, #{
        ours => fun() ->
            bench_throughput:measure(Rig#{subscriber := Shim}, Ours, Options,
                                     Traffic#{through => shim})
        end,
        theirs => fun() -> bench_throughput:measure(Rig, Theirs, Options, Traffic) end
    }),
    What = lists:flatten(io_lib:format("shim: ~b publishers, fan-out ~b, ~b B",
                                       [?PUBLISHERS, ?SUBSCRIBERS, Size])),
    bench_throughput:pair(What, "Erlang gateway", maps:get(ours, Measured),
                          maps:get(theirs, Measured), Target, 0.1).
