-module(esdb_gater_gateways_tests).

-include_lib("eunit/include/eunit.hrl").

the_next_is_tried_at_once_until_all_have_failed_test() ->
    G0 = esdb_gater_gateways:new(['a@h1', 'b@h2', 'c@h3']),
    {0, G1} = esdb_gater_gateways:failed('a@h1', G0),
    ?assertEqual({ok, 'b@h2'}, esdb_gater_gateways:current(G1)),
    ?assert(esdb_gater_gateways:others('b@h2', G1)),
    {0, G2} = esdb_gater_gateways:failed('b@h2', G1),
    ?assertNot(esdb_gater_gateways:others('c@h3', G2)),
    {Pause, G3} = esdb_gater_gateways:failed('c@h3', G2),
    ?assert(Pause > 0 andalso Pause =< 50),
    ?assertEqual({ok, 'a@h1'}, esdb_gater_gateways:current(G3)).

pauses_double_to_five_seconds_test() ->
    {Pauses, _} = lists:mapfoldl(fun(_, G) -> esdb_gater_gateways:failed('a@h', G) end,
                                 esdb_gater_gateways:new(['a@h']), lists:seq(1, 30)),
    Full = [min(5000, 50 bsl I) || I <- lists:seq(0, 29)],
    ?assertEqual(Full, Pauses).

a_success_starts_the_pauses_anew_test() ->
    {_, G1} = esdb_gater_gateways:failed('a@h', esdb_gater_gateways:new(['a@h'])),
    {_, G2} = esdb_gater_gateways:failed('a@h', G1),
    {Pause, _} = esdb_gater_gateways:failed('a@h', esdb_gater_gateways:succeeded('a@h', G2)),
    ?assert(Pause =< 50).

those_on_this_host_come_first_test() ->
    Own = own("g"),
    ?assertEqual({ok, Own},
                 esdb_gater_gateways:current(esdb_gater_gateways:new(['a@elsewhere', Own]))).

the_one_that_was_lost_is_not_the_next_though_it_is_on_this_host_test() ->
    Own = own("g"),
    G0 = esdb_gater_gateways:succeeded(Own, esdb_gater_gateways:new(['a@elsewhere', Own])),
    {0, G1} = esdb_gater_gateways:failed(Own, G0),
    ?assertEqual({ok, 'a@elsewhere'}, esdb_gater_gateways:current(G1)).

one_that_has_failed_comes_after_those_that_have_not_test() ->
    G0 = esdb_gater_gateways:new(['a@h', 'b@h', 'c@h']),
    {0, G1} = esdb_gater_gateways:failed('a@h', G0),
    G2 = esdb_gater_gateways:succeeded('b@h', G1),
    {0, G3} = esdb_gater_gateways:failed('b@h', G2),
    ?assertEqual({ok, 'c@h'}, esdb_gater_gateways:current(G3)),
    G4 = esdb_gater_gateways:succeeded('a@h', G3),
    ?assertEqual(['a@h', 'c@h', 'b@h'], esdb_gater_gateways:to_list(G4)).

members_come_before_those_that_are_named_only_test() ->
    G = esdb_gater_gateways:learn(['b@h', 'c@h', 'b@h'], esdb_gater_gateways:new(['a@h', 'b@h'])),
    ?assertEqual(['b@h', 'c@h', 'a@h'], esdb_gater_gateways:to_list(G)).

a_member_that_was_put_out_is_forgotten_unless_it_is_named_test() ->
    G1 = esdb_gater_gateways:learn(['a@h', 'b@h'], esdb_gater_gateways:new(['a@h'])),
    {0, G2} = esdb_gater_gateways:failed('b@h', G1),
    ?assertEqual(['a@h'], esdb_gater_gateways:to_list(esdb_gater_gateways:learn(['a@h'], G2))),
    ?assertEqual(['c@h', 'a@h'],
                 esdb_gater_gateways:to_list(esdb_gater_gateways:learn(['c@h'], G2))).

home_is_a_gateway_on_this_host_while_another_is_in_use_test() ->
    Own = own("g"),
    G = esdb_gater_gateways:learn(['a@elsewhere', Own], esdb_gater_gateways:new(['a@elsewhere'])),
    ?assertEqual({ok, Own}, esdb_gater_gateways:home('a@elsewhere', G)),
    ?assertEqual(none, esdb_gater_gateways:home(Own, G)),
    ?assertEqual(none, esdb_gater_gateways:home('a@elsewhere',
                                                esdb_gater_gateways:new(['a@elsewhere']))).

of_none_there_is_none_test() ->
    G = esdb_gater_gateways:new([]),
    ?assertEqual(none, esdb_gater_gateways:current(G)).

own(Name) ->
    [_, Host] = string:split(atom_to_list(node()), "@"),
    list_to_atom(Name ++ "@" ++ Host).
