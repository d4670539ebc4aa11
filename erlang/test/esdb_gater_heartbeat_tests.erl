-module(esdb_gater_heartbeat_tests).

-include_lib("eunit/include/eunit.hrl").

a_gateway_that_is_not_connected_is_not_watched_test() ->
    Pid = esdb_gater_heartbeat:start_link('nobody@nowhere', 100),
    Ref = monitor(process, Pid),
    receive {'DOWN', Ref, _, _, Reason} -> ?assert(Reason =:= normal orelse Reason =:= noproc) end.

stopping_does_not_end_who_started_it_test() ->
    ok = esdb_gater_heartbeat:stop(esdb_gater_heartbeat:start_link('nobody@nowhere', 100)),
    ok = esdb_gater_heartbeat:stop(undefined).

%% What a gateway tells of itself is longer the more has happened.
a_gateway_is_asked_for_no_more_than_a_sign_of_life_test() ->
    Test = self(),
    true = register(esdb_gater_session, Test),
    Pulse = esdb_gater_heartbeat:start_link(node(), 5000),
    receive
        {'$gen_call', {Pulse, _}, Request} -> ?assertEqual(ping, Request)
    after 5000 -> error(no_ping)
    end,
    ok = esdb_gater_heartbeat:stop(Pulse),
    true = unregister(esdb_gater_session).
