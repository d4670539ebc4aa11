-module(esdb_gater_desired_tests).

-include_lib("eunit/include/eunit.hrl").

with_table(Fun) ->
    Tables = [ets:new(Name, Options) || {Name, Options} <- esdb_gater_desired:tables()],
    try Fun()
    after lists:foreach(fun ets:delete/1, Tables)
    end.

what_has_faded_is_forgotten_at_the_second_time_test() ->
    with_table(fun() ->
        ok = esdb_gater_desired:add(stays, self()),
        ok = esdb_gater_desired:add(fades, self()),
        ok = esdb_gater_desired:mark(fades, self(), faded),
        ok = esdb_gater_desired:forget_faded(),
        ?assertEqual([{fades, self()}], esdb_gater_desired:faded()),
        ?assert(esdb_gater_desired:member(fades, self())),
        ok = esdb_gater_desired:forget_faded(),
        ?assertEqual([], esdb_gater_desired:faded()),
        ?assertNot(esdb_gater_desired:member(fades, self())),
        ?assertEqual([{stays, self()}], esdb_gater_desired:active())
    end).

what_is_offered_again_is_not_forgotten_test() ->
    with_table(fun() ->
        ok = esdb_gater_desired:add(s, self()),
        ok = esdb_gater_desired:mark(s, self(), faded),
        ok = esdb_gater_desired:forget_faded(),
        ok = esdb_gater_desired:mark(s, self(), active),
        ok = esdb_gater_desired:forget_faded(),
        ok = esdb_gater_desired:mark(s, self(), faded),
        ok = esdb_gater_desired:forget_faded(),
        ?assertEqual([{s, self()}], esdb_gater_desired:faded())
    end).

the_processes_of_what_was_forgotten_are_not_watched_test() ->
    with_table(fun() ->
        ok = esdb_gater_desired:add(s, self()),
        ok = esdb_gater_desired:mark(s, self(), faded),
        ?assertEqual([self()], esdb_gater_desired:processes()),
        ok = esdb_gater_desired:forget_faded(),
        ok = esdb_gater_desired:forget_faded(),
        ?assertEqual([], esdb_gater_desired:processes())
    end).
