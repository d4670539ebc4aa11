%% @doc A majority of the gateways is lost for good: what is left goes on as the operator's manual says.
-module(recovery_SUITE).

-include_lib("stdlib/include/assert.hrl").

-export([all/0, suite/0, init_per_testcase/2, end_per_testcase/2]).
-export([a_survivor_goes_on_and_others_join_it/1, members_of_the_old_cluster_are_strangers/1,
         waiting_gateways_have_no_say_about_leaders/1, a_recovery_has_to_be_meant/1]).

-define(WITHIN_MS, 60000).
-define(WORKERS, 30).
-define(MEANT, "--i-know-what-this-means").

suite() -> [{timetrap, {minutes, 4}}].

all() ->
    [a_survivor_goes_on_and_others_join_it, members_of_the_old_cluster_are_strangers,
     waiting_gateways_have_no_say_about_leaders, a_recovery_has_to_be_meant].

init_per_testcase(_, Config) ->
    {ok, Cluster} = gater_cluster:start(#{beams => 1}),
    await_voters(Cluster, gater_cluster:gateways(Cluster)),
    gater_cluster:settle(Cluster),
    [{cluster, Cluster} | Config].

end_per_testcase(Case, Config) ->
    Cluster = value(cluster, Config),
    _ = case value(tc_status, Config) of
        ok -> ok;
        _ -> gater_cluster:keep_logs(Cluster, filename:join([os:getenv("GATER_ROOT", "."), "target", "ct",
                                                             "recovery", Case]))
    end,
    gater_cluster:stop(Cluster).

%% Two disks are lost. The survivor is stopped, recovered and started, and the others with empty
%% directories: nothing else is done.
a_survivor_goes_on_and_others_join_it(Config) ->
    {Cluster, [Survivor | Lost] = Gateways} = cluster(Config),
    Workers = gater_workers:registered(Cluster, Survivor, ?WORKERS),
    [gater_cluster:kill(Cluster, Gateway) || Gateway <- Lost],
    ?assertEqual({error, no_quorum}, gater_workers:register(Cluster, Survivor, gater_workers:start(Cluster))),
    0 = gater_cluster:terminate(Cluster, Survivor),
    {0, Text} = recover(Cluster, Survivor, [?MEANT]),
    ?assertMatch({match, _}, re:run(Text, "a cluster of one now, with [0-9]+ registrations")),
    ?assertMatch({match, _}, re:run(Text, "before-recovery-1")),
    gater_cluster:up(Cluster, Survivor),
    gater_workers:await_offered(Cluster, Survivor, Workers),
    More = gater_workers:registered(Cluster, Survivor, 1),
    [begin gater_cluster:wipe(Cluster, Gateway), gater_cluster:up(Cluster, Gateway) end || Gateway <- Lost],
    await_voters(Cluster, Gateways),
    gater_cluster:settle(Cluster),
    [gater_workers:await_offered(Cluster, Gateway, Workers ++ More) || Gateway <- Gateways],
    %% It is a cluster like any other: two of three go on, whoever is lost.
    gater_cluster:kill(Cluster, Survivor),
    _ = gater_workers:registered(Cluster, hd(Lost), 1),
    ok.

%% One comes back with its directory, against all advice: it is refused, and changes nothing.
members_of_the_old_cluster_are_strangers(Config) ->
    {Cluster, [Survivor, Old | _]} = cluster(Config),
    Workers = gater_workers:registered(Cluster, Survivor, ?WORKERS),
    [gater_cluster:kill(Cluster, Gateway) || Gateway <- gater_cluster:gateways(Cluster)],
    {0, _} = recover(Cluster, Survivor, [?MEANT]),
    gater_cluster:up(Cluster, Survivor),
    gater_cluster:up(Cluster, Old),
    More = gater_workers:registered(Cluster, Survivor, 1),
    gater_harness:until(fun() ->
        match =:= re:run(gater_cluster:log(Cluster, Survivor), "belongs to another cluster|not with its id",
                         [{capture, none}])
    end, ?WITHIN_MS),
    gater_workers:await_offered(Cluster, Survivor, Workers ++ More),
    #{members := [#{node := Survivor, role := voter}]} = gater_cluster:status(Cluster, Survivor),
    ?assertEqual({error, no_quorum}, gater_workers:register(Cluster, Old, gater_workers:start(Cluster))).

%% They bear the names of members that were lost, and are none: the survivor does not stand because of
%% them, again and again.
waiting_gateways_have_no_say_about_leaders(Config) ->
    {Cluster, [Survivor | Lost] = Gateways} = cluster(Config),
    [gater_cluster:kill(Cluster, Gateway) || Gateway <- Gateways],
    [gater_cluster:wipe(Cluster, Gateway) || Gateway <- Lost],
    Before = byte_size(gater_cluster:log(Cluster, Survivor)),
    [gater_cluster:up(Cluster, Gateway) || Gateway <- Gateways],
    gater_harness:until(fun() ->
        case gater_cluster:status(Cluster, Survivor) of
            #{health := no_quorum, missing := [_, _ | _]} -> true;
            _ -> false
        end
    end),
    %% Refused after 4 s: more than enough to stand.
    ?assertEqual({error, no_quorum}, gater_workers:register(Cluster, Survivor, gater_workers:start(Cluster))),
    <<_:Before/binary, Log/binary>> = gater_cluster:log(Cluster, Survivor),
    ?assertEqual(nomatch, re:run(Log, "the leader is gone")),
    [?assertMatch(#{role := waiting}, gater_cluster:status(Cluster, Gateway)) || Gateway <- Lost].

a_recovery_has_to_be_meant(Config) ->
    {Cluster, [Survivor | Lost]} = cluster(Config),
    Workers = gater_workers:registered(Cluster, Survivor, 1),
    {64, Usage} = recover(Cluster, Survivor, []),
    ?assertMatch({match, _}, re:run(Usage, "--i-know-what-this-means")),
    {1, InUse} = recover(Cluster, Survivor, [?MEANT]),
    ?assertMatch({match, _}, re:run(InUse, "in use by another gateway")),
    gater_cluster:kill(Cluster, Survivor),
    Dir = filename:join(gater_harness:dir(gater_cluster:world(Cluster)), atom_to_list(Survivor)),
    {1, Nothing} = gater_cluster:command(Cluster, Survivor, ["recover", ?MEANT, "--data-dir", Dir ++ "-none"]),
    ?assertMatch({match, _}, re:run(Nothing, "no data directory")),
    {1, Other} = gater_cluster:command(Cluster, hd(Lost), ["recover", ?MEANT, "--data-dir", Dir]),
    ?assertMatch({match, _}, re:run(Other, "is the data directory of")),
    %% Nothing has changed.
    gater_cluster:up(Cluster, Survivor),
    await_voters(Cluster, [Survivor | Lost]),
    gater_workers:await_offered(Cluster, Survivor, Workers).

%%% Small things

recover(Cluster, Gateway, Arguments) ->
    Dir = filename:join(gater_harness:dir(gater_cluster:world(Cluster)), atom_to_list(Gateway)),
    gater_cluster:command(Cluster, Gateway, ["recover", "--data-dir", Dir | Arguments]).

cluster(Config) ->
    Cluster = value(cluster, Config),
    {Cluster, gater_cluster:gateways(Cluster)}.

await_voters(Cluster, Gateways) ->
    gater_harness:until(fun() ->
        case gater_cluster:status(Cluster, hd(Gateways)) of
            #{missing := [], members := Members} -> length(Members) =:= length(Gateways);
            _ -> false
        end
    end, ?WITHIN_MS).

value(Key, Config) -> proplists:get_value(Key, Config).
