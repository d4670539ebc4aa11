-module(esdb_gater_pending_tests).

-include_lib("eunit/include/eunit.hrl").

requests_are_sent_in_the_order_they_came_and_once_test() ->
    {A, P1} = esdb_gater_pending:add(register, s, self(), none, esdb_gater_pending:new()),
    {B, P2} = esdb_gater_pending:add(unregister, s, self(), none, P1),
    ?assertEqual([{A, register, s, self()}, {B, unregister, s, self()}],
                 esdb_gater_pending:unsent(P2)),
    ?assertMatch([{B, _, _, _}], esdb_gater_pending:unsent(esdb_gater_pending:sent(A, P2))).

what_a_lost_gateway_has_not_answered_is_sent_again_test() ->
    {A, P1} = esdb_gater_pending:add(register, s, self(), none, esdb_gater_pending:new()),
    Lost = esdb_gater_pending:gateway_lost(esdb_gater_pending:sent(A, P1)),
    ?assertMatch([{A, _, _, _}], esdb_gater_pending:unsent(Lost)).

what_has_waited_too_long_is_taken_once_test() ->
    From = {self(), make_ref()},
    {A, P1} = esdb_gater_pending:add(register, s, self(), From, esdb_gater_pending:new()),
    {From, s, Pid, P2} = esdb_gater_pending:expire(A, P1),
    ?assertEqual(self(), Pid),
    ?assertEqual(late, esdb_gater_pending:take(A, P2)),
    ?assertEqual(late, esdb_gater_pending:expire(A, P2)),
    ?assertEqual(0, esdb_gater_pending:size(P2)).

an_answered_request_does_not_expire_test() ->
    From = {self(), make_ref()},
    {A, P1} = esdb_gater_pending:add(register, s, self(), From, esdb_gater_pending:new()),
    {From, P2} = esdb_gater_pending:take(A, P1),
    ?assertEqual(late, esdb_gater_pending:expire(A, P2)).

a_late_registration_is_decided_on_at_once_if_it_is_the_only_one_test() ->
    P1 = esdb_gater_pending:late(s, self(), esdb_gater_pending:new()),
    {true, P2} = esdb_gater_pending:take_late(s, self(), P1),
    ?assertMatch({false, P2}, esdb_gater_pending:take_late(s, self(), P2)).

a_late_registration_is_decided_on_when_the_last_one_of_its_pair_has_ended_test() ->
    {A, P1} = esdb_gater_pending:add(register, s, self(), none, esdb_gater_pending:new()),
    {B, P2} = esdb_gater_pending:add(register, s, self(), none, P1),
    {false, P3} = esdb_gater_pending:take_late(s, self(), esdb_gater_pending:late(s, self(), P2)),
    {none, P4} = esdb_gater_pending:take(A, P3),
    {false, P5} = esdb_gater_pending:take_late(s, self(), P4),
    {none, s, _, P6} = esdb_gater_pending:expire(B, P5),
    ?assertMatch({true, _}, esdb_gater_pending:take_late(s, self(), P6)).

withdrawals_and_other_pairs_do_not_delay_the_decision_test() ->
    {_, P1} = esdb_gater_pending:add(unregister, s, self(), none, esdb_gater_pending:new()),
    {_, P2} = esdb_gater_pending:add(register, other, self(), none, P1),
    {true, _} = esdb_gater_pending:take_late(s, self(), esdb_gater_pending:late(s, self(), P2)).

nothing_is_decided_where_nothing_is_late_test() ->
    {A, P1} = esdb_gater_pending:add(register, s, self(), none, esdb_gater_pending:new()),
    {false, P2} = esdb_gater_pending:take_late(s, self(), P1),
    {none, P3} = esdb_gater_pending:take(A, P2),
    ?assertMatch({false, P3}, esdb_gater_pending:take_late(s, self(), P3)).
