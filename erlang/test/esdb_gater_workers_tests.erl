-module(esdb_gater_workers_tests).

-include_lib("eunit/include/eunit.hrl").
-include("property.hrl").

-define(STORE, test_store).

with_tables(Fun) ->
    Tables = [ets:new(Name, Options) || {Name, Options} <- esdb_gater_workers:tables()],
    try Fun()
    after lists:foreach(fun ets:delete/1, Tables)
    end.

processes(N) ->
    [spawn_link(fun() -> receive stop -> ok end end) || _ <- lists:seq(1, N)].

stop(Pids) ->
    lists:foreach(fun(Pid) -> unlink(Pid), exit(Pid, kill) end, Pids).

%% A pid of another node, which need not exist.
remote_pid(Id) ->
    binary_to_term(<<131, 88, 119, 5, "n@h.x", Id:32, 0:32, 1:32>>).

turns_are_exactly_even_test_() ->
    [{integer_to_list(N) ++ " workers",
      fun() ->
          with_tables(fun() ->
              Pids = processes(N),
              [esdb_gater_workers:add(?STORE, Pid) || Pid <- Pids],
              Chosen = [esdb_gater_workers:select(?STORE) || _ <- lists:seq(1, 7 * N)],
              [?assertEqual(7, length([C || C <- Chosen, C =:= Pid])) || Pid <- Pids],
              stop(Pids)
          end)
      end} || N <- [1, 2, 3, 10, 1000]].

%% The list is kept by the first reader and taken out by each change, whoever reads meanwhile.
a_list_that_is_kept_follows_each_change_test() ->
    with_tables(fun() ->
        [A, B, C] = Pids = processes(3),
        Lists = fun() -> [esdb_gater_workers:listed(?STORE) || _ <- [first, kept, again]] end,
        Is = fun(Expected) ->
                 Listed = [{node(), Pid} || Pid <- Expected],
                 ?assertEqual(lists:duplicate(3, {ok, Listed}), Lists()),
                 ?assertEqual(Expected, esdb_gater_workers:local(?STORE)),
                 ?assertMatch([{_, _, Listed}], ets:lookup(esdb_gater_worker_lists, ?STORE))
             end,
        ?assertEqual([none, none, none], Lists()),
        [begin true = esdb_gater_workers:add(?STORE, Pid), Lists() end || Pid <- Pids],
        Is([A, B, C]),
        true = esdb_gater_workers:renew(?STORE, A),
        Is([B, C, A]),
        true = esdb_gater_workers:remove(?STORE, C),
        Is([B, A]),
        ok = esdb_gater_workers:reset([{?STORE, [A, B, C]}]),
        Is([A, B, C]),
        ok = esdb_gater_workers:reset([]),
        ?assertEqual([none, none, none], Lists()),
        ?assertEqual([], ets:tab2list(esdb_gater_worker_lists)),
        stop(Pids)
    end).

turns_are_even_over_many_callers_test() ->
    with_tables(fun() ->
        Pids = processes(8),
        [esdb_gater_workers:add(?STORE, Pid) || Pid <- Pids],
        Self = self(),
        Callers = [spawn_link(fun() ->
                                  Self ! {self(), [esdb_gater_workers:select(?STORE)
                                                   || _ <- lists:seq(1, 1000)]}
                              end) || _ <- lists:seq(1, 4)],
        Chosen = lists:append([receive {Caller, Those} -> Those end || Caller <- Callers]),
        [?assertEqual(500, length([C || C <- Chosen, C =:= Pid])) || Pid <- Pids],
        stop(Pids)
    end).

an_unknown_store_has_none_test() ->
    with_tables(fun() ->
        ?assertEqual(none, esdb_gater_workers:select(nothing)),
        ?assertEqual(none, esdb_gater_workers:select(nothing, local, [self()])),
        ?assertEqual([], esdb_gater_workers:list(nothing))
    end).

without_tables_there_is_nothing_test() ->
    ?assertEqual(none, esdb_gater_workers:select(?STORE)),
    ?assertEqual(none, esdb_gater_workers:select(?STORE, any, [self()])),
    ?assertEqual([], esdb_gater_workers:list(?STORE)),
    ?assertEqual(false, esdb_gater_workers:member(?STORE, self())).

the_failed_are_avoided_while_another_exists_test_() ->
    in_tables(
        ?FORALL({N, Failing}, {range(1, 8), list(range(1, 8))},
            begin
                Pids = processes(N),
                [esdb_gater_workers:add(?STORE, Pid) || Pid <- Pids],
                Failed = lists:uniq([lists:nth(F, Pids) || F <- Failing, F =< N]),
                Chosen = esdb_gater_workers:select(?STORE, any, Failed),
                [esdb_gater_workers:remove(?STORE, Pid) || Pid <- Pids],
                stop(Pids),
                case {Failed, length(Failed) =:= N} of
                    {_, false} -> not lists:member(Chosen, Failed);
                    {[Only], true} -> Chosen =:= Only;
                    %% All have failed: any but the latest.
                    {[Latest | _], true} -> Chosen =/= Latest
                end
            end)).

local_ones_come_first_test() ->
    with_tables(fun() ->
        Local = processes(2),
        [esdb_gater_workers:add(?STORE, Pid) || Pid <- [remote_pid(1) | Local] ++ [remote_pid(2)]],
        Chosen = [esdb_gater_workers:select(?STORE, local, []) || _ <- lists:seq(1, 10)],
        [?assertEqual(5, length([C || C <- Chosen, C =:= Pid])) || Pid <- Local],
        Other = esdb_gater_workers:select(?STORE, local, Local),
        ?assert(node(Other) =:= 'n@h.x'),
        ?assertEqual(Local, esdb_gater_workers:local(?STORE)),
        stop(Local)
    end).

%%% Against a plain list

change() ->
    Pid = range(1, 12),
    frequency([{4, {add, Pid}}, {3, {remove, Pid}}, {1, {reset, list(Pid)}}]).

the_copy_is_the_list_of_what_was_added_in_order_test_() ->
    in_tables(
        ?FORALL(Changes, list(change()),
            begin
                Local = processes(6),
                Pids = Local ++ [remote_pid(I) || I <- lists:seq(1, 6)],
                esdb_gater_workers:reset([]),
                Expected = lists:foldl(fun(C, Acc) -> apply_change(C, Pids, Acc) end, [], Changes),
                Holds = [P || {_, P} <- esdb_gater_workers:list(?STORE)] =:= Expected
                    andalso esdb_gater_workers:local(?STORE)
                                =:= [P || P <- Expected, node(P) =:= node()]
                    andalso esdb_gater_workers:size(?STORE) =:= length(Expected)
                    andalso lists:sort([esdb_gater_workers:select(?STORE) || _ <- Expected])
                                =:= lists:sort(Expected)
                    andalso (Expected =/= []) =:= lists:member(?STORE, esdb_gater_workers:stores()),
                stop(Local),
                Holds
            end)).

%% In a pattern of ets these atoms match anything.
a_store_may_have_any_name_test() ->
    with_tables(fun() ->
        Stores = ['_', '$1', '$2', '$$', '', '$_', other],
        Pids = processes(length(Stores)),
        All = lists:zip(Stores, Pids),
        [true = esdb_gater_workers:add(Store, Pid) || {Store, Pid} <- All],
        ?assertEqual([{Store, [{node(), Pid}]} || {Store, Pid} <- All],
                     [{Store, esdb_gater_workers:list(Store)} || Store <- Stores]),
        ?assertEqual(lists:sort(Stores), lists:sort(esdb_gater_workers:stores())),
        ok = esdb_gater_workers:reset([{Store, [Pid]} || {Store, Pid} <- All]),
        ok = esdb_gater_workers:reset([{'_', [hd(Pids)]}]),
        ?assertEqual(['_'], esdb_gater_workers:stores()),
        ?assertEqual([hd(Pids)], esdb_gater_workers:local('_')),
        stop(Pids)
    end).

%% What select/3 does when the last worker leaves between its looks at the tables.
the_last_worker_may_leave_while_one_is_chosen_test() ->
    with_tables(fun() ->
        [Pid] = processes(1),
        true = esdb_gater_workers:add(?STORE, Pid),
        %% The count is still there, the place is empty already.
        [Head] = ets:lookup(esdb_gater_workers, ?STORE),
        true = ets:delete(esdb_gater_workers, {?STORE, 0}),
        true = ets:delete(esdb_gater_workers, {?STORE, 0, local}),
        Leaves = spawn_link(fun() -> receive go -> ets:delete(esdb_gater_workers, ?STORE) end end),
        _ = erlang:send_after(20, Leaves, go),
        ?assertEqual(none, esdb_gater_workers:select(?STORE, local, [])),
        true = ets:insert(esdb_gater_workers, Head),
        ?assertEqual(Pid, esdb_gater_workers:select(?STORE, local, [Pid])),
        stop([Pid])
    end).

apply_change({add, I}, Pids, Acc) ->
    Pid = lists:nth(I, Pids),
    New = esdb_gater_workers:add(?STORE, Pid),
    ?assertEqual(New, not lists:member(Pid, Acc)),
    case New of true -> Acc ++ [Pid]; false -> Acc end;
apply_change({remove, I}, Pids, Acc) ->
    Pid = lists:nth(I, Pids),
    ?assertEqual(lists:member(Pid, Acc), esdb_gater_workers:remove(?STORE, Pid)),
    lists:delete(Pid, Acc);
apply_change({reset, Is}, Pids, _Acc) ->
    New = lists:uniq([lists:nth(I, Pids) || I <- Is]),
    ok = esdb_gater_workers:reset([{?STORE, New}]),
    New.

a_reader_beside_a_writer_always_finds_a_worker_test_() ->
    {timeout, 60, fun() -> with_tables(fun() ->
        [Constant | Others] = Pids = processes(5),
        esdb_gater_workers:add(?STORE, Constant),
        Writer = spawn_link(fun Write() ->
            [esdb_gater_workers:add(?STORE, Pid) || Pid <- Others],
            [esdb_gater_workers:remove(?STORE, Pid) || Pid <- Others],
            Write()
        end),
        Chosen = [esdb_gater_workers:select(?STORE) || _ <- lists:seq(1, 20000)],
        ?assert(lists:all(fun(Pid) -> lists:member(Pid, Pids) end, Chosen)),
        Monitor = monitor(process, Writer),
        stop([Writer]),
        receive {'DOWN', Monitor, _, _, _} -> ok end,
        stop(Pids)
    end) end}.

%% A property that has the tables while it is checked.
in_tables(Property) ->
    [{timeout, Seconds, fun() -> with_tables(Check) end} || {timeout, Seconds, Check} <- Property].
