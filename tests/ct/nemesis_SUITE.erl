%% @doc Three gateways and three nodes at work while everything happens to them; and that what
%% judges them finds out a cluster that is broken.
-module(nemesis_SUITE).

-include_lib("stdlib/include/assert.hrl").

-export([all/0, groups/0, suite/0, init_per_group/2, end_per_group/2, init_per_testcase/2,
         end_per_testcase/2]).
-export([an_acknowledged_worker_that_is_missing_is_found/1, a_dead_worker_offered_is_found/1,
         a_withdrawn_worker_offered_is_found/1, an_unknown_outcome_excuses_only_what_it_may_have_done/1,
         a_worker_offered_twice_is_found/1, a_living_worker_refused_is_found/1,
         gateways_that_disagree_are_found/1, a_message_delivered_twice_is_found/1,
         a_message_out_of_order_is_found/1, lost_messages_and_other_streams_are_no_violation/1,
         the_same_seed_gives_the_same_plan/1, a_plan_has_every_fault/1]).
-export([a_sound_cluster_is_well/1, lost_writes_are_caught/1, lost_withdrawals_are_caught/1,
         keeping_the_dead_is_caught/1, listing_twice_is_caught/1, disagreement_is_caught/1,
         delivering_twice_is_caught/1, delivering_out_of_order_is_caught/1,
         delivering_at_home_only_is_caught/1, garbling_is_caught/1]).
-export([everything_acknowledged_survives_the_nemesis/1]).

%% What the broken ones get to be well in, in milliseconds.
-define(FAKE_WELL_MS, 1000).
%% How often a broken one is judged before it counts as not found out.
-define(JUDGEMENTS, 20).
%% And the real one, from when everybody runs again and nothing is cut.
-define(WELL_MS, 60000).
-define(ROUNDS, 20).
%% More than any round takes on a busy machine, in minutes.
-define(ROUND_MINUTES, 2).

suite() -> [{timetrap, {minutes, 3}}].

all() -> [{group, checker}, {group, broken}, {group, nemesis}].

groups() ->
    [{checker, [], [
         an_acknowledged_worker_that_is_missing_is_found, a_dead_worker_offered_is_found,
         a_withdrawn_worker_offered_is_found, an_unknown_outcome_excuses_only_what_it_may_have_done,
         a_worker_offered_twice_is_found, a_living_worker_refused_is_found,
         gateways_that_disagree_are_found, a_message_delivered_twice_is_found,
         a_message_out_of_order_is_found, lost_messages_and_other_streams_are_no_violation,
         the_same_seed_gives_the_same_plan, a_plan_has_every_fault]},
     {broken, [], [
         a_sound_cluster_is_well, lost_writes_are_caught, lost_withdrawals_are_caught,
         keeping_the_dead_is_caught, listing_twice_is_caught, disagreement_is_caught,
         delivering_twice_is_caught, delivering_out_of_order_is_caught,
         delivering_at_home_only_is_caught, garbling_is_caught]},
     {nemesis, [], [everything_acknowledged_survives_the_nemesis]}].

init_per_group(broken, Config) ->
    {ok, Cluster} = gater_cluster:start(#{fake => true, beams => 2,
                                        modules => [?MODULE | gater_nemesis:modules()]}),
    [{cluster, Cluster} | Config];
init_per_group(_, Config) ->
    Config.

end_per_group(broken, Config) -> gater_cluster:stop(value(cluster, Config));
end_per_group(_, _) -> ok.

init_per_testcase(everything_acknowledged_survives_the_nemesis, Config) ->
    Minutes = max(5, rounds() * ?ROUND_MINUTES),
    ct:timetrap({minutes, Minutes}),
    %% With a key an attacker that takes the name of a gateway that is down is none.
    case gater_cluster:start(#{network => namespaces, modules => gater_nemesis:modules(), spare => 2,
                               env => [{"ESDB_GATER_CLUSTER_KEY", gater_harness:unique("the key of the nemesis")}],
                               gateways => list_to_integer(os:getenv("GATER_GATEWAYS", "3"))}) of
        {ok, Cluster} -> [{cluster, Cluster} | Config];
        {skip, _} = Skip -> Skip
    end;
init_per_testcase(_, Config) ->
    Config.

end_per_testcase(everything_acknowledged_survives_the_nemesis, Config) ->
    gater_cluster:stop(value(cluster, Config));
end_per_testcase(_, _) ->
    ok.

%%% The checker

an_acknowledged_worker_that_is_missing_is_found(_) ->
    [A, B] = pids(2),
    Workers = [{store, A, [{register, ok}]}, {store, B, [{register, unknown}, {register, ok}]}],
    ?assertEqual([], gater_history:workers(Workers, [view(g1, [A, B])])),
    ?assertEqual([{lost, g1, store, A, [{register, ok}]}],
                 gater_history:workers(Workers, [view(g1, [B])])),
    ?assertMatch([{lost, g1, store, B, _}], gater_history:workers(Workers, [view(g1, [A])])),
    %% Offered for one store is not offered for the other.
    ?assertMatch([{lost, g1, other, A, _}],
                 gater_history:workers([{other, A, [{register, ok}]} | Workers],
                                       [view(g1, [A, B]), {g1, other, []}])).

a_dead_worker_offered_is_found(_) ->
    [A, Dead] = pids(2),
    ?assertEqual([{dead_but_offered, g1, store, Dead}],
                 gater_history:workers([{store, A, [{register, ok}]}], [view(g1, [A, Dead])])).

a_withdrawn_worker_offered_is_found(_) ->
    [A] = pids(1),
    Operations = [{register, ok}, {unregister, ok}],
    ?assertEqual([{withdrawn_but_offered, g1, store, A, Operations}],
                 gater_history:workers([{store, A, Operations}], [view(g1, [A])])),
    ?assertEqual([], gater_history:workers([{store, A, Operations}], [view(g1, [])])),
    %% Never registered at all.
    ?assertMatch([{withdrawn_but_offered, _, _, _, []}],
                 gater_history:workers([{store, A, []}], [view(g1, [A])])).

an_unknown_outcome_excuses_only_what_it_may_have_done(_) ->
    Expected = [
        {must, [{register, ok}]},
        {must, [{register, unknown}, {register, ok}]},
        {must, [{register, ok}, {unregister, ok}, {register, ok}]},
        %% What is answered `unknown' can still happen after what was answered later.
        {may, [{register, ok}, {unregister, unknown}]},
        {may, [{register, ok}, {unregister, unknown}, {register, ok}]},
        {may, [{register, unknown}]},
        {may, [{register, unknown}, {register, ok}, {unregister, ok}]},
        {must_not, [{register, ok}, {unregister, ok}]},
        {must_not, [{register, ok}, {unregister, unknown}, {unregister, ok}]},
        {must_not, [{register, {refused, {error, noproc}}}]},
        {must_not, []}],
    ?assertEqual(Expected, [{gater_history:expectation(Operations), Operations}
                            || {_, Operations} <- Expected]).

a_worker_offered_twice_is_found(_) ->
    [A] = pids(1),
    ?assertEqual([{offered_twice, g1, store, A}],
                 gater_history:workers([{store, A, [{register, ok}]}], [view(g1, [A, A])])),
    ?assertEqual([{wrong_node, g1, store, {elsewhere, A}}],
                 gater_history:workers([{store, A, [{register, ok}]}], [{g1, store, [{elsewhere, A}]}])).

a_living_worker_refused_is_found(_) ->
    [A] = pids(1),
    ?assertEqual([{refused, store, A, {error, noproc}}],
                 gater_history:workers([{store, A, [{register, {refused, {error, noproc}}}]}],
                                       [view(g1, [])])).

gateways_that_disagree_are_found(_) ->
    [A, B] = pids(2),
    May = [{store, Pid, [{register, unknown}]} || Pid <- [A, B]],
    ?assertEqual([], gater_history:workers(May, [view(g1, [A]), view(g2, [A])])),
    ?assertMatch([{disagreement, store, [{[_], _}, {[_], _}]}],
                 gater_history:workers(May, [view(g1, [A]), view(g2, [A, B])])),
    %% The order is the same everywhere.
    ?assertMatch([{disagreement, store, _}],
                 gater_history:workers(May, [view(g1, [A, B]), view(g2, [B, A]), view(g3, [A, B])])).

a_message_delivered_twice_is_found(_) ->
    [S, P] = pids(2),
    Twice = {S, channel, <<"t">>, P, 2},
    {Violations, Seen} = gater_history:deliveries([{S, channel, <<"t">>, P, 1}, Twice, Twice], #{}),
    ?assertEqual([{twice, Twice}], Violations),
    %% Also when a check lies between.
    ?assertMatch({[{twice, Twice}], _}, gater_history:deliveries([Twice], Seen)),
    ?assertMatch({[{garbled, {S, {garbled, x}}}], _}, gater_history:deliveries([{S, {garbled, x}}], Seen)).

a_message_out_of_order_is_found(_) ->
    [S, P] = pids(2),
    Late = {S, channel, <<"t">>, P, 2},
    ?assertMatch({[{out_of_order, Late, 3}], _},
                 gater_history:deliveries([{S, channel, <<"t">>, P, N} || N <- [1, 3, 2, 4]], #{})).

lost_messages_and_other_streams_are_no_violation(_) ->
    [S, P, Q] = pids(3),
    ?assertMatch({[], _}, gater_history:deliveries(
        [{S, channel, <<"t">>, P, 1}, {S, channel, <<"t">>, P, 7}, {S, channel, <<"u">>, P, 2},
         {S, other, <<"t">>, P, 1}, {S, channel, <<"t">>, Q, 1}, {Q, channel, <<"t">>, P, 1}], #{})).

the_same_seed_gives_the_same_plan(_) ->
    ?assertEqual(gater_nemesis:plan("seed", 50), gater_nemesis:plan("seed", 50)),
    ?assertNotEqual(gater_nemesis:plan("seed", 50), gater_nemesis:plan("another", 50)),
    %% A longer plan begins with the shorter one.
    ?assertEqual(gater_nemesis:plan("seed", 20), lists:sublist(gater_nemesis:plan("seed", 50), 20)).

a_plan_has_every_fault(_) ->
    Faults = [case What of power -> power; _ -> element(1, What) end
              || Round <- gater_nemesis:plan("any", 200), #{what := What} <- Round],
    ?assertEqual([banish, deafen, isolate, kill, pause, power, restart, sever, split], lists:usort(Faults)).

%%% Broken clusters

a_sound_cluster_is_well(Config) -> ?assertEqual([], found(none, Config)).

lost_writes_are_caught(Config) -> ?assertEqual([lost], found(loses_writes, Config)).

lost_withdrawals_are_caught(Config) ->
    ?assertEqual([withdrawn_but_offered], found(loses_withdrawals, Config)).

keeping_the_dead_is_caught(Config) -> ?assertEqual([dead_but_offered], found(keeps_the_dead, Config)).

listing_twice_is_caught(Config) -> ?assertEqual([offered_twice], found(lists_twice, Config)).

disagreement_is_caught(Config) -> ?assert(lists:member(disagreement, found(disagrees, Config))).

delivering_twice_is_caught(Config) -> ?assertEqual([twice], found(delivers_twice, Config)).

delivering_out_of_order_is_caught(Config) ->
    ?assertEqual([out_of_order], found(delivers_out_of_order, Config)).

delivering_at_home_only_is_caught(Config) -> ?assertEqual([not_reached], found(delivers_at_home, Config)).

garbling_is_caught(Config) -> ?assertEqual([garbled], found(garbles, Config)).

%% The kinds of violations that are found in a cluster with a fault.
found(Fault, Config) ->
    Cluster = value(cluster, Config),
    Gateways = gater_cluster:gateways(Cluster),
    [ok = gater_cluster:on(Cluster, Gateway, fun() -> gater_nemesis_fake:start(Fault, Gateways) end)
     || Gateway <- Gateways],
    gater_nemesis:start_load(Cluster, Fault),
    try
        judged(Fault, Cluster, #{}, 1)
    after
        [gater_cluster:on(Cluster, Beam, fun gater_nemesis_client:stop/0)
         || Beam <- gater_cluster:beams(Cluster)]
    end.

%% What is broken now and then may be so in nothing that can be seen any more, as when the worker
%% that was lost has died: then there is more load, and it is judged again.
judged(Fault, Cluster, Seen, Judgement) ->
    loaded(Cluster, 12 * Judgement),
    {#{violations := Violations}, Next} =
        gater_nemesis:judge(Cluster, Seen, #{well_ms => ?FAKE_WELL_MS, across => true}),
    case lists:usort([element(1, Violation) || Violation <- Violations]) of
        [] when Fault =/= none, Judgement < ?JUDGEMENTS -> judged(Fault, Cluster, Next, Judgement + 1);
        Kinds -> Kinds
    end.

%% Waits until everything has happened so often on each node.
loaded(Cluster, Times) ->
    gater_harness:until(fun() -> lists:all(fun(Beam) ->
        Counts = gater_cluster:on(Cluster, Beam, fun gater_nemesis_client:counts/0),
        lists:all(fun(Key) -> maps:get(Key, Counts, 0) >= Times end,
                  [{register, ok}, {unregister, ok}, killed, {execute, ok}])
    end, gater_cluster:beams(Cluster)) end).

%%% The real one

everything_acknowledged_survives_the_nemesis(Config) ->
    Cluster = value(cluster, Config),
    Attacker = gater_nemesis_attacker:join(Cluster),
    Gateways = gater_cluster:gateways(Cluster),
    Seed = os:getenv("GATER_SEED", gater_harness:unique("seed")),
    Rounds = rounds(),
    io:format(user, "nemesis: ~b rounds; again: make soak SEED=~s ROUNDS=~b~n", [Rounds, Seed, Rounds]),
    Tell = case os:getenv("GATER_ROUNDS") =/= false of
        true -> fun(Number, Faults, Verdict) ->
                    io:format(user, "~s~n", [line(Number, Faults, Verdict)])
                end;
        false -> fun(Number, Faults, Verdict) -> ct:log("~s", [line(Number, Faults, Verdict)]) end
    end,
    case gater_nemesis:run(Cluster, Seed, gater_nemesis:plan(Seed, Rounds),
                           #{well_ms => ?WELL_MS, across => true}, Tell) of
        {ok, Counts} ->
            io:format(user, "nemesis: ~tp~n", [lists:sort(maps:to_list(Counts))]),
            Sent = gater_cluster:on(Cluster, Attacker, fun gater_nemesis_attacker:sent/0),
            Refused = [Count || Gateway <- Gateways, #{refused := Count} <- [gater_cluster:status(Cluster, Gateway)]],
            io:format(user, "nemesis: ~b forged messages, ~w refused since the gateways started~n", [Sent, Refused]),
            ?assert(Sent > 0),
            ?assert(lists:sum(Refused) > 0),
            ?assert(maps:get({execute, ok}, Counts, 0) > 0),
            ?assert(maps:get(delivered, Counts, 0) > 0);
        {failed, Number, Faults, Verdict} ->
            Kept = filename:join([os:getenv("GATER_ROOT", "."), "target", "ct", "nemesis", Seed]),
            gater_cluster:keep_logs(Cluster, Kept),
            ct:fail("seed ~s, round ~b; logs in ~s~n~tp~n~tp",
                    [Seed, Number, Kept, Faults, Verdict])
    end.

line(Number, Faults, #{settle_ms := Ms, violations := Violations}) ->
    io_lib:format("round ~b: ~0p; ~b violations, well after ~b ms",
                  [Number, [{What, Until - At} || #{what := What, at := At, until := Until} <- Faults],
                   length(Violations), Ms]).

rounds() -> list_to_integer(os:getenv("GATER_ROUNDS", integer_to_list(?ROUNDS))).

%%% Small things

pids(Count) -> [spawn(fun() -> ok end) || _ <- lists:seq(1, Count)].

view(Gateway, Pids) -> {Gateway, store, [{node(Pid), Pid} || Pid <- Pids]}.

value(Key, Config) -> proplists:get_value(Key, Config).
