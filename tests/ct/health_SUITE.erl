%% @doc What `esdb-gater cluster status' and the logs say of a cluster that lacks a gateway.
-module(health_SUITE).

-include_lib("stdlib/include/assert.hrl").

-export([all/0, suite/0]).
-export([status_tells_a_missing_gateway_and_a_lost_quorum/1,
         a_removed_gateway_says_so_and_is_not_missed/1,
         a_name_that_was_never_seen_is_printed_as_such/1,
         the_only_member_is_not_removed_and_nobody_says_so/1]).

%% Within this an operator is to be told that no command is carried out any more.
-define(TOLD_MS, 5000).

suite() -> [{timetrap, {minutes, 4}}].

all() ->
    [status_tells_a_missing_gateway_and_a_lost_quorum,
     a_removed_gateway_says_so_and_is_not_missed, a_name_that_was_never_seen_is_printed_as_such,
     the_only_member_is_not_removed_and_nobody_says_so].

status_tells_a_missing_gateway_and_a_lost_quorum(_Config) ->
    with(#{beams => 1}, fun(Cluster) ->
        Leader = gater_cluster:leader(Cluster),
        [One, Two] = gater_cluster:gateways(Cluster) -- [Leader],
        await(Cluster, Leader, 0, "healthy"),
        %% Whoever does not answer at all is told of its connection or of its silence.
        [gater_cluster:pause(Cluster, Gateway) || Gateway <- [One, Two]],
        await(Cluster, Leader, 1, "NO QUORUM", ?TOLD_MS),
        [gater_cluster:resume(Cluster, Gateway) || Gateway <- [One, Two]],
        gater_cluster:settle(Cluster),
        [await(Cluster, Gateway, 0, "healthy") || Gateway <- [Leader, One, Two]],
        Now = gater_cluster:leader(Cluster),
        [Third, Fourth] = gater_cluster:gateways(Cluster) -- [Now],
        gater_cluster:kill(Cluster, Third),
        await(Cluster, Now, 2, "NOT CONNECTED"),
        %% An idle leader says once that a gateway is missing, and goes on saying nothing.
        await_log(Cluster, Now, <<"disconnected">>),
        Before = length(lines(Cluster, Now)),
        %% By its own clock: one that had no time has not been idle.
        Until = uptime(Cluster, Now) + 4,
        gater_harness:until(fun() -> uptime(Cluster, Now) >= Until end),
        ?assert(length(lines(Cluster, Now)) - Before =< 4, lists:nthtail(Before, lines(Cluster, Now))),
        ?assertEqual(nomatch, binary:match(gater_cluster:log(Cluster, Now), <<"openraft">>)),
        %% Its directory is no other gateway's.
        World = gater_cluster:world(Cluster),
        Directory = filename:join(gater_harness:dir(World), atom_to_list(Third)),
        {error, {ended, 1, Text}} = gater_harness:launch(World, #{data_dir => Directory}),
        ?assertMatch({_, _}, binary:match(Text, list_to_binary(["that of ", atom_to_list(Third)])), Text),
        gater_cluster:kill(Cluster, Fourth),
        await(Cluster, Now, 1, "NO QUORUM", ?TOLD_MS),
        await_log(Cluster, Now, <<"no majority of the gateways is reached">>),
        [gater_cluster:up(Cluster, Gateway) || Gateway <- [Third, Fourth]],
        gater_cluster:settle(Cluster),
        [await(Cluster, Gateway, 0, "healthy") || Gateway <- gater_cluster:gateways(Cluster)]
    end).

a_removed_gateway_says_so_and_is_not_missed(_Config) ->
    with(#{beams => 1}, fun(Cluster) ->
        Leader = gater_cluster:leader(Cluster),
        [Stays, Removed] = gater_cluster:gateways(Cluster) -- [Leader],
        {0, _} = gater_cluster:command(Cluster, Leader, ["remove", atom_to_list(Removed)]),
        await(Cluster, Removed, 1, "removed"),
        %% It still stands in the list that all were started with.
        [await(Cluster, Gateway, 0, "healthy") || Gateway <- [Leader, Stays]]
    end).

a_name_that_was_never_seen_is_printed_as_such(_Config) ->
    Misspelt = "gaeter3@127.0.0.1",
    with(#{beams => 1, gateways => 2, args => ["--cluster", Misspelt]}, fun(Cluster) ->
        [await(Cluster, Gateway, 2, Misspelt ++ "  NEVER SEEN")
         || Gateway <- gater_cluster:gateways(Cluster)]
    end).

the_only_member_is_not_removed_and_nobody_says_so(_Config) ->
    with(#{beams => 1, gateways => 1}, fun(Cluster) ->
        [Only] = gater_cluster:gateways(Cluster),
        await(Cluster, Only, 0, "healthy"),
        #{members := [#{node := Name}]} = gater_cluster:status(Cluster, Only),
        {1, Output} = gater_cluster:command(Cluster, Only, ["remove", atom_to_list(Name)]),
        ?assertMatch({match, _}, re:run(Output, "was not removed: it is the only member"), Output),
        ?assertEqual(nomatch, binary:match(gater_cluster:log(Cluster, Only), <<"was removed">>)),
        await(Cluster, Only, 0, "healthy")
    end).

%%% Helpers

with(Options, Test) ->
    {ok, Cluster} = gater_cluster:start(Options),
    try
        gater_cluster:settle(Cluster),
        Test(Cluster)
    after
        gater_cluster:stop(Cluster)
    end.

await(Cluster, Gateway, Code, Text) -> await(Cluster, Gateway, Code, Text, 30000).

await(Cluster, Gateway, Code, Text, WithinMs) ->
    Said = fun() -> gater_cluster:command(Cluster, Gateway, ["status"]) end,
    try
        gater_harness:until(fun() ->
            {Now, Output} = Said(),
            Now =:= Code andalso string:find(Output, Text) =/= nomatch
        end, WithinMs)
    catch
        error:{never_happened, _} -> error({never_said, Code, Text, Said()})
    end.

await_log(Cluster, Gateway, Text) ->
    gater_harness:until(fun() ->
        binary:match(gater_cluster:log(Cluster, Gateway), Text) =/= nomatch end).

uptime(Cluster, Gateway) ->
    #{uptime_seconds := Seconds} =
        gater_cluster:call(Cluster, hd(gater_cluster:beams(Cluster)), {esdb_gater_session, Gateway}, info),
    Seconds.

lines(Cluster, Gateway) ->
    binary:split(gater_cluster:log(Cluster, Gateway), <<"\n">>, [global, trim_all]).
