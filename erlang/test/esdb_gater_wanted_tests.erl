-module(esdb_gater_wanted_tests).

-include_lib("eunit/include/eunit.hrl").

with_table(Fun) ->
    Tables = [ets:new(Name, Options) || {Name, Options} <- esdb_gater_wanted:tables()],
    try Fun()
    after lists:foreach(fun ets:delete/1, Tables)
    end.

what_has_faded_is_forgotten_at_the_second_time_test() ->
    with_table(fun() ->
        ok = esdb_gater_wanted:add(stays, self()),
        ok = esdb_gater_wanted:add(fades, self()),
        ok = esdb_gater_wanted:mark(fades, self(), faded),
        ok = esdb_gater_wanted:forget_faded(),
        ?assertEqual([{fades, self()}], esdb_gater_wanted:faded()),
        ?assert(esdb_gater_wanted:member(fades, self())),
        ok = esdb_gater_wanted:forget_faded(),
        ?assertEqual([], esdb_gater_wanted:faded()),
        ?assertNot(esdb_gater_wanted:member(fades, self())),
        ?assertEqual([{stays, self()}], esdb_gater_wanted:active())
    end).

what_is_offered_again_is_not_forgotten_test() ->
    with_table(fun() ->
        ok = esdb_gater_wanted:add(s, self()),
        ok = esdb_gater_wanted:mark(s, self(), faded),
        ok = esdb_gater_wanted:forget_faded(),
        ok = esdb_gater_wanted:mark(s, self(), active),
        ok = esdb_gater_wanted:forget_faded(),
        ok = esdb_gater_wanted:mark(s, self(), faded),
        ok = esdb_gater_wanted:forget_faded(),
        ?assertEqual([{s, self()}], esdb_gater_wanted:faded())
    end).

the_processes_of_what_was_forgotten_are_not_watched_test() ->
    with_table(fun() ->
        ok = esdb_gater_wanted:add(s, self()),
        ok = esdb_gater_wanted:mark(s, self(), faded),
        ?assertEqual([self()], esdb_gater_wanted:processes()),
        ok = esdb_gater_wanted:forget_faded(),
        ok = esdb_gater_wanted:forget_faded(),
        ?assertEqual([], esdb_gater_wanted:processes())
    end).
