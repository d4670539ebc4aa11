-module(esdb_gater_pulse_tests).

-include_lib("eunit/include/eunit.hrl").

a_gateway_that_is_not_connected_is_not_watched_test() ->
    Pid = esdb_gater_pulse:start_link('nobody@nowhere', 100),
    Ref = monitor(process, Pid),
    receive {'DOWN', Ref, _, _, Reason} -> ?assert(Reason =:= normal orelse Reason =:= noproc) end.

stopping_does_not_end_who_started_it_test() ->
    ok = esdb_gater_pulse:stop(esdb_gater_pulse:start_link('nobody@nowhere', 100)),
    ok = esdb_gater_pulse:stop(undefined).
