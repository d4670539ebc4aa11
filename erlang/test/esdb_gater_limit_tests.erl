-module(esdb_gater_limit_tests).

-include_lib("eunit/include/eunit.hrl").

-define(SECOND, 1_000_000_000).

kinds() ->
    [erlang] ++ [native || esdb_gater_gen:library() =/= none].

each(Test) ->
    {generator, fun() -> [{atom_to_list(Kind), {timeout, 60, fun() -> Test(Kind) end}}
                          || Kind <- kinds()] end}.

a_burst_is_one_second_worth_test_() ->
    each(fun(Kind) ->
             L = esdb_gater_limit:new(Kind, 5, 100),
             ?assertEqual([true, true, true, true, true, false],
                          [esdb_gater_limit:check(L, <<"t">>, 0) || _ <- lists:seq(1, 6)])
         end).

tokens_come_back_evenly_test_() ->
    each(fun(Kind) ->
             L = esdb_gater_limit:new(Kind, 4, 100),
             [true = esdb_gater_limit:check(L, <<"t">>, 0) || _ <- lists:seq(1, 4)],
             ?assertEqual([false, true, false, true, false],
                          [esdb_gater_limit:check(L, <<"t">>, Now)
                           || Now <- [249_999_999, 250_000_000, 250_000_000, 500_000_000,
                                      749_999_999]])
         end).

topics_do_not_share_test_() ->
    each(fun(Kind) ->
             L = esdb_gater_limit:new(Kind, 1, 10_000),
             Topics = [integer_to_binary(N) || N <- lists:seq(1, 1000)],
             ?assert(lists:all(fun(T) -> esdb_gater_limit:check(L, T, 1) end, Topics)),
             ?assertNot(lists:any(fun(T) -> esdb_gater_limit:check(L, T, 2) end, Topics))
         end).

more_topics_than_fit_are_let_through_and_memory_stays_test_() ->
    each(fun(Kind) ->
             L = esdb_gater_limit:new(Kind, 1, 64),
             ?assert(lists:all(fun(N) -> esdb_gater_limit:check(L, <<N:32>>, N) end,
                               lists:seq(1, 20_000)))
         end).

%% A burst of 20, and 20 a second: however long this process is kept waiting, four more take the
%% time of three at the least.
the_clock_is_that_of_the_node_test_() ->
    each(fun(Kind) ->
             L = esdb_gater_limit:new(Kind, 20, 64),
             Begun = erlang:monotonic_time(millisecond),
             ok = take(L, 20 + 4),
             ?assert(erlang:monotonic_time(millisecond) - Begun >= 3 * 1000 div 20)
         end).

take(_L, 0) ->
    ok;
take(L, Left) ->
    case esdb_gater_limit:check(L, <<"t">>) of
        true -> take(L, Left - 1);
        false -> take(L, Left)
    end.

many_processes_get_no_more_than_one_test_() ->
    each(fun(Kind) ->
             L = esdb_gater_limit:new(Kind, 1000, 64),
             Self = self(),
             Pids = [spawn_link(fun() ->
                                    Self ! {self(), length([x || _ <- lists:seq(1, 1000),
                                                                 esdb_gater_limit:check(L, <<"t">>, 7)])}
                                end) || _ <- lists:seq(1, 8)],
             ?assertEqual(1000, lists:sum([receive {Pid, N} -> N end || Pid <- Pids]))
         end).

what_is_no_rate_or_topic_raises_test_() ->
    each(fun(Kind) ->
             [?assertError(_, esdb_gater_limit:new(Kind, Bad, 10)) || Bad <- [0, -1, 1.0, a]],
             L = esdb_gater_limit:new(Kind, 1, 10),
             [?assertError(_, esdb_gater_limit:check(L, Bad)) || Bad <- [a, "t", <<1:1>>]],
             ?assert(esdb_gater_limit:check(esdb_gater_limit:new(Kind, 1 bsl 70, 1 bsl 70), <<"t">>))
         end).

all_kinds_agree_with_a_model_test_() ->
    esdb_gater_gen:holds(
      fun() ->
          Step = proper_types:tuple([proper_types:range(1, 5),
                                     proper_types:oneof([0, 1, proper_types:range(0, ?SECOND)])]),
          proper_types:tuple([proper_types:range(1, 12), proper_types:list(Step)])
      end,
      fun({Rate, Steps}) ->
          Expected = model(Rate, Steps, 0, #{}),
          lists:all(fun(Kind) ->
                        L = esdb_gater_limit:new(Kind, Rate, 1000),
                        Expected =:= answers(L, Steps, 0)
                    end, kinds())
      end).

answers(_L, [], _Now) -> [];
answers(L, [{Topic, Pause} | Steps], Now) ->
    Then = Now + Pause,
    [esdb_gater_limit:check(L, <<Topic>>, Then) | answers(L, Steps, Then)].

%% A bucket in the plain: so many nanoseconds' worth of tokens, at most a second's.
model(_Rate, [], _Now, _Buckets) -> [];
model(Rate, [{Topic, Pause} | Steps], Now, Buckets) ->
    Then = Now + Pause,
    Token = (?SECOND + Rate - 1) div Rate,
    Full = Token * Rate,
    {Level, At} = maps:get(Topic, Buckets, {Full, Then}),
    case min(Full, Level + Then - At) of
        Enough when Enough >= Token ->
            [true | model(Rate, Steps, Then, Buckets#{Topic => {Enough - Token, Then}})];
        Short ->
            [false | model(Rate, Steps, Then, Buckets#{Topic => {Short, Then}})]
    end.
