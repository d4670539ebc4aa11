-module(esdb_gater_turns_tests).

-include_lib("eunit/include/eunit.hrl").

turns_do_not_overlap_test() ->
    Counter = counters:new(2, []),
    Step = fun() ->
               counters:add(Counter, 1, 1),
               1 = counters:get(Counter, 1),
               counters:add(Counter, 2, 1),
               erlang:yield(),
               counters:sub(Counter, 1, 1)
           end,
    Takers = [spawn_monitor(fun() ->
                                [ok = esdb_gater_turns:run(?MODULE, Step) || _ <- lists:seq(1, 50)]
                            end) || _ <- lists:seq(1, 50)],
    [receive {'DOWN', Ref, process, Pid, Reason} -> ?assertEqual(normal, Reason) end
     || {Pid, Ref} <- Takers],
    ?assertEqual(2500, counters:get(Counter, 2)).

a_turn_returns_and_raises_what_its_function_does_test() ->
    ?assertEqual(done, esdb_gater_turns:run(?MODULE, fun() -> done end)),
    ?assertError(badarg, esdb_gater_turns:run(?MODULE, fun() -> error(badarg) end)),
    ?assertExit(gone, esdb_gater_turns:run(?MODULE, fun() -> exit(gone) end)),
    ?assertThrow(ball, esdb_gater_turns:run(?MODULE, fun() -> throw(ball) end)).

a_turn_may_take_another_test() ->
    Inner = fun() -> esdb_gater_turns:run(?MODULE, fun() -> inner end) end,
    ?assertEqual(inner, esdb_gater_turns:run(?MODULE, Inner)).

no_process_stays_test() ->
    ok = esdb_gater_turns:run(?MODULE, fun() -> ok end),
    Gone = fun Wait(0) -> whereis(?MODULE);
               Wait(N) -> case whereis(?MODULE) of
                              undefined -> undefined;
                              _ -> erlang:yield(), Wait(N - 1)
                          end
           end,
    ?assertEqual(undefined, Gone(1_000_000)).

one_that_is_killed_lets_the_others_in_test() ->
    Self = self(),
    {Victim, Ref} = spawn_monitor(fun() ->
        esdb_gater_turns:run(?MODULE, fun() -> Self ! {in, self()}, receive never -> ok end end)
    end),
    receive {in, Turn} -> exit(Turn, kill) end,
    receive {'DOWN', Ref, process, Victim, Reason} -> ?assertEqual(killed, Reason) end,
    ?assertEqual(ok, esdb_gater_turns:run(?MODULE, fun() -> ok end)).
