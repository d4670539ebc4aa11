-module(esdb_gater_parts_tests).

-include_lib("eunit/include/eunit.hrl").

a_registry_in_one_message_is_as_it_came_test() ->
    Registry = [{orders, [self()]}],
    ?assertEqual({Registry, []}, esdb_gater_parts:whole(Registry, esdb_gater_parts:new())).

a_store_in_several_parts_has_all_its_workers_in_order_test() ->
    [A, B, C, D] = Pids = [spawn(fun() -> ok end) || _ <- lists:seq(1, 4)],
    Parts = lists:foldl(fun esdb_gater_parts:add/2, esdb_gater_parts:new(),
                        [[{first, [A]}, {large, [A, B]}], [{large, [C]}]]),
    {Registry, []} = esdb_gater_parts:whole([{large, [D]}, {last, [B]}], Parts),
    ?assertEqual([{first, [A]}, {large, Pids}, {last, [B]}], lists:sort(Registry)).

changes_between_the_parts_count_in_their_order_test() ->
    [A, B] = [spawn(fun() -> ok end) || _ <- [1, 2]],
    First = esdb_gater_parts:add([{orders, [A]}], esdb_gater_parts:new()),
    Removed = esdb_gater_parts:change(removed, orders, A, First),
    Added = esdb_gater_parts:change(added, orders, B, Removed),
    ?assertEqual({[{orders, [A]}], [{removed, orders, A}, {added, orders, B}]},
                 esdb_gater_parts:whole([], Added)).
