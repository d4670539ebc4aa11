-module(esdb_gater_departed_tests).

-include_lib("eunit/include/eunit.hrl").

what_was_in_use_is_remembered_until_it_is_left_test() ->
    F = esdb_gater_departed:add('g@h', esdb_gater_departed:new()),
    ?assert(esdb_gater_departed:member('g@h', F)),
    ?assertNot(esdb_gater_departed:member('g@h', esdb_gater_departed:remove('g@h', F))).

it_does_not_grow_without_bound_test() ->
    Names = [list_to_atom("g" ++ integer_to_list(I) ++ "@h") || I <- lists:seq(1, 200)],
    F = lists:foldl(fun esdb_gater_departed:add/2, esdb_gater_departed:new(), Names),
    ?assertEqual(64, length([N || N <- Names, esdb_gater_departed:member(N, F)])),
    ?assert(esdb_gater_departed:member(lists:last(Names), F)).
