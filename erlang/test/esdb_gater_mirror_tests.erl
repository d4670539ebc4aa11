-module(esdb_gater_mirror_tests).

-include_lib("eunit/include/eunit.hrl").

with_tables(Fun) ->
    Tables = [ets:new(Name, Options)
              || {Name, Options} <- esdb_gater_workers:tables() ++ esdb_gater_desired:tables()
                                        ++ esdb_gater_withdrawals:tables()],
    Pids = [spawn(fun() -> receive stop -> ok end end) || _ <- lists:seq(1, 3)],
    try Fun(Pids)
    after
        lists:foreach(fun ets:delete/1, Tables),
        lists:foreach(fun(Pid) -> exit(Pid, kill) end, Pids)
    end.

what_is_wanted_and_not_there_is_missing_test() ->
    with_tables(fun([A, B, _]) ->
        ok = esdb_gater_desired:add(s, A),
        ok = esdb_gater_desired:add(s, B),
        ?assertMatch({[{s, B}], _}, esdb_gater_mirror:reset([{s, [A]}], other))
    end).

workers_of_this_node_outlive_a_gateway_that_does_not_know_them_until_it_is_settled_test() ->
    with_tables(fun([A, B, C]) ->
        {[], Nobody} = esdb_gater_mirror:reset([{s, [A, B, C]}], other),
        ?assertEqual(#{}, Nobody),
        {[], Kept} = esdb_gater_mirror:reset([{s, [C]}], other),
        ?assertEqual([A, B, C], lists:sort(pids(s))),
        Left = esdb_gater_mirror:added(s, B, Kept),
        ?assertEqual(#{{s, A} => []}, Left),
        ok = esdb_gater_mirror:settle(Left),
        ?assertEqual([C, B], pids(s))
    end).

order_is_the_gateways_also_of_those_that_were_kept_test() ->
    with_tables(fun([A, B, C]) ->
        _ = esdb_gater_mirror:reset([{s, [A, B, C]}], other),
        {[], Kept} = esdb_gater_mirror:reset([], other),
        lists:foldl(fun(Pid, Acc) -> esdb_gater_mirror:added(s, Pid, Acc) end, Kept, [C, A, B]),
        ?assertEqual([C, A, B], pids(s))
    end).

the_same_gateway_is_believed_at_once_test() ->
    with_tables(fun([A, B, _]) ->
        _ = esdb_gater_mirror:reset([{s, [A, B]}], other),
        ?assertEqual({[], #{}}, esdb_gater_mirror:reset([{s, [B]}], same)),
        ?assertEqual([B], pids(s))
    end).

the_dead_of_this_node_are_not_kept_test() ->
    with_tables(fun([A, B, _]) ->
        _ = esdb_gater_mirror:reset([{s, [A, B]}], other),
        Ref = monitor(process, A),
        exit(A, kill),
        receive {'DOWN', Ref, _, _, _} -> ok end,
        ?assertEqual({[], #{{s, B} => []}}, esdb_gater_mirror:reset([], other)),
        ?assertEqual([B], pids(s))
    end).

workers_of_nodes_that_are_not_connected_are_not_kept_test() ->
    with_tables(fun(_) ->
        Remote = remote(),
        _ = esdb_gater_mirror:reset([{s, [Remote]}], other),
        ?assertEqual({[], #{}}, esdb_gater_mirror:reset([], other)),
        ?assertEqual([], pids(s))
    end).

a_faded_worker_that_the_whole_registry_names_is_wanted_again_test() ->
    with_tables(fun([A, B, _]) ->
        [begin
             ok = esdb_gater_desired:add(s, Pid),
             ok = esdb_gater_desired:mark(s, Pid, faded)
         end || Pid <- [A, B]],
        ?assertMatch({[], _}, esdb_gater_mirror:reset([{s, [A]}], other)),
        ?assertEqual([{s, A}], esdb_gater_desired:active()),
        ?assertEqual([{s, B}], esdb_gater_desired:faded())
    end).

a_worker_elsewhere_that_is_taken_and_not_offered_has_faded_test() ->
    with_tables(fun([A, _, _]) ->
        Remote = remote(),
        [ok = esdb_gater_desired:add(s, Pid) || Pid <- [A, Remote]],
        [ok = esdb_gater_mirror:repeated(s, Pid) || Pid <- [A, Remote]],
        ?assertEqual([{s, A}], esdb_gater_desired:active()),
        _ = esdb_gater_mirror:added(s, Remote, #{}),
        ok = esdb_gater_mirror:repeated(s, Remote),
        ?assertEqual([], esdb_gater_desired:faded())
    end).

%% A process of a node that is not connected.
remote() -> binary_to_term(<<131, 88, 119, 5, "n@h.x", 1:32, 0:32, 1:32>>).

pids(Store) -> [Pid || {_, Pid} <- esdb_gater_workers:list(Store)].

what_was_taken_back_is_not_offered_by_a_gateway_that_was_not_told_test() ->
    with_tables(fun(_Pids) ->
        ok = esdb_gater_withdrawals:add(s, self()),
        {[], _} = esdb_gater_mirror:reset([{s, [self()]}, {t, [self()]}], other),
        ?assertEqual([], esdb_gater_workers:list(s)),
        ?assertEqual([{node(), self()}], esdb_gater_workers:list(t)),
        _ = esdb_gater_mirror:added(s, self(), #{}),
        ?assertEqual([], esdb_gater_workers:list(s)),
        ok = esdb_gater_withdrawals:remove(s, self()),
        _ = esdb_gater_mirror:added(s, self(), #{}),
        ?assertEqual([{node(), self()}], esdb_gater_workers:list(s))
    end).
