%% @doc A gateway that is started on an older copy of its data directory has forgotten what it voted
%% for and acknowledged. It is recognised, says so, takes part in nothing, and harms nobody.
-module(rolled_back_SUITE).

-include_lib("stdlib/include/assert.hrl").

-export([all/0, suite/0, init_per_testcase/2, end_per_testcase/2]).
-export([a_restored_member_says_so_and_takes_part_in_nothing/1,
         a_copy_of_a_running_member_is_recognised_by_what_it_acknowledged/1,
         a_restored_member_and_one_that_was_away_lose_nothing_together/1,
         a_restored_member_is_recognised_after_all_have_restarted/1,
         a_member_that_only_restarts_takes_part/1]).

-define(WITHIN_MS, 60000).
%% Registrations that the copy lacks.
-define(LACKING, 50).

suite() -> [{timetrap, {minutes, 4}}].

all() ->
    [a_restored_member_says_so_and_takes_part_in_nothing,
     a_copy_of_a_running_member_is_recognised_by_what_it_acknowledged,
     a_restored_member_and_one_that_was_away_lose_nothing_together,
     a_restored_member_is_recognised_after_all_have_restarted,
     a_member_that_only_restarts_takes_part].

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
                                                             "rolled_back", Case]))
    end,
    gater_cluster:stop(Cluster).

a_restored_member_says_so_and_takes_part_in_nothing(Config) ->
    {Cluster, Gateways} = cluster(Config),
    [Restored, Other | _] = Gateways -- [gater_cluster:leader(Cluster)],
    before(Cluster, Restored),
    Workers = gater_workers:registered(Cluster, Other, ?LACKING),
    gater_workers:await_offered(Cluster, Restored, Workers),
    restore(Cluster, Restored),
    await_role(Cluster, Restored, rolled_back),
    %% All say so, and what to do.
    Advice = iolist_to_binary(["cluster add ", atom_to_list(Restored)]),
    gater_harness:until(fun() ->
        match(gater_cluster:log(Cluster, Restored), <<"older copy of its data directory">>)
            andalso lists:all(fun(Gateway) -> match(gater_cluster:log(Cluster, Gateway), Advice) end,
                              Gateways -- [Restored])
    end),
    {2, Status} = gater_cluster:command(Cluster, Other, ["status"]),
    ?assertMatch({match, _}, re:run(Status, [atom_to_list(Restored), " runs with an older copy"])),
    %% The others go on, and it is no part of a majority.
    More = gater_workers:registered(Cluster, Other, 1),
    [Third] = Gateways -- [Restored, Other],
    gater_cluster:kill(Cluster, Third),
    ?assertEqual({error, no_quorum}, gater_workers:register(Cluster, Other, gater_workers:start(Cluster))),
    %% Nor after a start of its own.
    gater_cluster:kill(Cluster, Restored),
    gater_cluster:up(Cluster, Restored),
    await_role(Cluster, Restored, rolled_back),
    gater_cluster:up(Cluster, Third),
    again_with_an_empty_directory(Cluster, Other, Restored),
    gater_workers:await_offered(Cluster, Restored, Workers ++ More).

%% The same start: only what it has told of its progress gives it away.
a_copy_of_a_running_member_is_recognised_by_what_it_acknowledged(Config) ->
    {Cluster, Gateways} = cluster(Config),
    [Restored, Other | _] = Gateways -- [gater_cluster:leader(Cluster)],
    _ = gater_workers:registered(Cluster, Other, 1),
    %% Paused, so that the copy is of one moment.
    gater_cluster:pause(Cluster, Restored),
    gater_cluster:copy_data(Cluster, Restored),
    gater_cluster:resume(Cluster, Restored),
    gater_cluster:settle(Cluster),
    Workers = gater_workers:registered(Cluster, Other, ?LACKING),
    gater_workers:await_offered(Cluster, Restored, Workers),
    %% It has told them so.
    #{applied := Applied} = gater_cluster:status(Cluster, Other),
    gater_harness:until(fun() -> settled(Cluster, Other, Restored) > Applied end, ?WITHIN_MS),
    restore(Cluster, Restored),
    await_role(Cluster, Restored, rolled_back),
    gater_workers:await_offered(Cluster, Other, Workers).

%% The two were a majority, and would have led a history without the workers.
a_restored_member_and_one_that_was_away_lose_nothing_together(Config) ->
    {Cluster, Gateways} = cluster(Config),
    Leader = gater_cluster:leader(Cluster),
    [Restored, Away] = Gateways -- [Leader],
    before(Cluster, Restored),
    %% It meets the restarted one, and goes away.
    _ = gater_workers:registered(Cluster, Away, 1),
    gater_cluster:kill(Cluster, Away),
    Workers = gater_workers:registered(Cluster, Leader, ?LACKING),
    gater_cluster:kill(Cluster, Leader),
    restore(Cluster, Restored),
    gater_cluster:up(Cluster, Away),
    await_role(Cluster, Restored, rolled_back),
    ?assertEqual({error, no_quorum}, gater_workers:register(Cluster, Away, gater_workers:start(Cluster))),
    gater_cluster:up(Cluster, Leader),
    again_with_an_empty_directory(Cluster, Leader, Restored),
    gater_workers:await_offered(Cluster, Away, Workers),
    gater_workers:await_offered(Cluster, Restored, Workers).

a_restored_member_is_recognised_after_all_have_restarted(Config) ->
    {Cluster, Gateways} = cluster(Config),
    [Restored | _] = Gateways -- [gater_cluster:leader(Cluster)],
    before(Cluster, Restored),
    Workers = gater_workers:registered(Cluster, Restored, ?LACKING),
    [gater_cluster:kill(Cluster, Gateway) || Gateway <- Gateways],
    gater_cluster:restore_data(Cluster, Restored),
    [gater_cluster:up(Cluster, Gateway) || Gateway <- Gateways],
    await_role(Cluster, Restored, rolled_back),
    gater_workers:await_offered(Cluster, hd(Gateways -- [Restored]), Workers).

a_member_that_only_restarts_takes_part(Config) ->
    {Cluster, Gateways} = cluster(Config),
    [Restarted, Other, Third] = Gateways,
    [begin
         _ = gater_workers:registered(Cluster, Other, 1),
         stop(Cluster, Restarted, Times),
         gater_cluster:up(Cluster, Restarted)
     end || Times <- lists:seq(1, 6)],
    gater_cluster:settle(Cluster),
    gater_cluster:kill(Cluster, Third),
    _ = gater_workers:registered(Cluster, Restarted, 1),
    ok.

%%% Small things

cluster(Config) ->
    Cluster = value(cluster, Config),
    {Cluster, gater_cluster:gateways(Cluster)}.

%% The entries that a member has told to be safe on its disk, as another one remembers.
settled(Cluster, At, Member) ->
    case gater_cluster:status(Cluster, At) of
        #{members := Members} -> hd([Settled || #{node := Node, settled := Settled} <- Members, Node =:= Member]);
        undefined -> 0
    end.

stop(Cluster, Gateway, Times) when Times rem 2 =:= 0 -> gater_cluster:kill(Cluster, Gateway);
stop(Cluster, Gateway, _) -> 0 = gater_cluster:terminate(Cluster, Gateway).

%% As the manual says a backup is made.
before(Cluster, Gateway) ->
    _ = gater_workers:registered(Cluster, Gateway, 1),
    0 = gater_cluster:terminate(Cluster, Gateway),
    gater_cluster:copy_data(Cluster, Gateway),
    gater_cluster:up(Cluster, Gateway),
    gater_cluster:settle(Cluster).

restore(Cluster, Gateway) ->
    gater_cluster:kill(Cluster, Gateway),
    gater_cluster:restore_data(Cluster, Gateway),
    gater_cluster:up(Cluster, Gateway).

again_with_an_empty_directory(Cluster, Through, Gateway) ->
    gater_cluster:kill(Cluster, Gateway),
    gater_cluster:wipe(Cluster, Gateway),
    gater_cluster:up(Cluster, Gateway),
    gater_harness:until(fun() ->
        gater_cluster:command(Cluster, Through, ["add", atom_to_list(Gateway)]) =:= {0, "done\n"}
    end, ?WITHIN_MS),
    gater_cluster:settle(Cluster).

await_role(Cluster, Gateway, Role) ->
    gater_harness:until(fun() ->
        case gater_cluster:status(Cluster, Gateway) of
            #{role := Is} -> Is =:= Role;
            undefined -> false
        end
    end, ?WITHIN_MS).

await_voters(Cluster, Gateways) ->
    gater_harness:until(fun() ->
        case gater_cluster:status(Cluster, hd(Gateways)) of
            #{missing := []} -> true;
            _ -> false
        end
    end, ?WITHIN_MS).

match(Text, Part) -> binary:match(Text, Part) =/= nomatch.

value(Key, Config) -> proplists:get_value(Key, Config).
