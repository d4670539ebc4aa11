-module(esdb_gater_candidates_tests).

-include_lib("eunit/include/eunit.hrl").

the_next_is_tried_at_once_until_all_have_failed_test() ->
    C0 = esdb_gater_candidates:new(['a@h1', 'b@h2', 'c@h3']),
    {0, C1} = esdb_gater_candidates:failed(C0),
    ?assertEqual({ok, 'b@h2'}, esdb_gater_candidates:current(C1)),
    {0, C2} = esdb_gater_candidates:failed(C1),
    {Pause, C3} = esdb_gater_candidates:failed(C2),
    ?assert(Pause > 0 andalso Pause =< 50),
    ?assertEqual({ok, 'a@h1'}, esdb_gater_candidates:current(C3)).

pauses_double_to_five_seconds_and_are_half_to_whole_test() ->
    {Pauses, _} = lists:mapfoldl(fun(_, C) -> esdb_gater_candidates:failed(C) end,
                                 esdb_gater_candidates:new(['a@h']), lists:seq(1, 30)),
    Full = [min(5000, 50 bsl I) || I <- lists:seq(0, 29)],
    [?assert(P =< F andalso P >= F div 2) || {P, F} <- lists:zip(Pauses, Full)].

a_success_starts_the_pauses_anew_test() ->
    {_, C1} = esdb_gater_candidates:failed(esdb_gater_candidates:new(['a@h'])),
    {_, C2} = esdb_gater_candidates:failed(C1),
    {Pause, _} = esdb_gater_candidates:failed(esdb_gater_candidates:succeeded(C2)),
    ?assert(Pause =< 50).

those_on_this_host_come_first_test() ->
    [_, Host] = string:split(atom_to_list(node()), "@"),
    Own = list_to_atom("g@" ++ Host),
    ?assertEqual({ok, Own},
                 esdb_gater_candidates:current(esdb_gater_candidates:new(['a@elsewhere', Own]))).

learnt_ones_come_last_and_once_test() ->
    C = esdb_gater_candidates:learn(['b@h', 'a@h', 'b@h'], esdb_gater_candidates:new(['a@h'])),
    ?assertEqual(['a@h', 'b@h'], esdb_gater_candidates:to_list(C)).

of_none_there_is_none_test() ->
    C = esdb_gater_candidates:new([]),
    ?assertEqual(none, esdb_gater_candidates:current(C)),
    ?assertMatch({_, C}, esdb_gater_candidates:failed(C)).
