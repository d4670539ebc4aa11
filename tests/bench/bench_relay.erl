%% @doc Deliveries to subscribers that are behind another gateway of a cluster, against the same
%% with publishers and subscribers at one.
-module(bench_relay).
-behaviour(bench).

-export([title/0, run/1]).

-define(PUBLISHERS, 4).
-define(SUBSCRIBERS, 1000).

-spec title() -> string().
title() -> "deliveries across gateways".

-spec run(bench:options()) -> [bench:row()] | {skip, string()}.
run(#{gateway := plain}) ->
    {skip, "the Erlang gateway relays to no other"};
run(#{gateway := Program} = Options) ->
    bench_registry_rig:with(none, fun(#{client := Publisher, scratch := #{keep := Keep} = Scratch} = Rig) ->
        Cluster = bench_registry_rig:cluster(Rig, {gateway, Program}, 2),
        [One, Other] = [Running || {_, Running} <- maps:values(Cluster)],
        Subscriber = Keep(bench_rig:peer(bench_rig:name("subscriber"), [], Scratch)),
        %% Acknowledgements go from node to node, beside the gateways.
        pong = bench_rig:call(Subscriber, net_adm, ping,
                              [bench_rig:call(Publisher, erlang, node, [], 10000)], 10000),
        Nodes = #{publisher => Publisher, subscriber => Subscriber},
        lists:append([rows(Nodes, One, Other, Options, Size) || Size <- sizes(Options)])
    end).

sizes(#{quick := true}) -> [64];
sizes(#{quick := false}) -> [64, 1024].

rows(Nodes, One, #{node := Other}, Options, Size) ->
    Traffic = #{publishers => ?PUBLISHERS, subscribers => ?SUBSCRIBERS, size => Size},
    #{behind := Behind, at_one := AtOne} = bench:alternate(Options, #{
        behind => fun() ->
            bench_throughput:measure(Nodes, One, Options, Traffic#{subscribe_at => Other})
        end,
        at_one => fun() -> bench_throughput:measure(Nodes, One, Options, Traffic) end
    }),
    What = lists:flatten(io_lib:format("~b publishers, ~b subscribers behind another gateway, ~b B",
                                       [?PUBLISHERS, ?SUBSCRIBERS, Size])),
    [Deliveries | _] =
        bench_throughput:pair(What, "all at one gateway", Behind, AtOne, 0.7, none),
    [Deliveries].
