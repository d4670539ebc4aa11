-module(esdb_gater_retry_tests).

-include_lib("eunit/include/eunit.hrl").
-include("property.hrl").
-include("../include/esdb_gater.hrl").

%%% Delays

every_delay_lies_within_its_bounds_test_() ->
    ?FORALL({Base, Max, Attempt}, {range(0, 2000), range(0, 100000), range(0, 80)},
        begin
            Config = esdb_gater_retry:new_config(Base, Base + Max, 5),
            Delay = esdb_gater_retry:calculate_delay(Attempt, Config),
            Raw = Base * (1 bsl Attempt),
            Delay =< Base + Max andalso Delay >= min(Raw, Base + Max)
                andalso Delay =< max(Raw + Raw div 4, 0)
        end).

the_delay_at_the_cap_is_the_maximum_test() ->
    Config = esdb_gater_retry:new_config(100, 5000, 5),
    [?assertEqual(5000, esdb_gater_retry:calculate_delay(Attempt, Config))
     || Attempt <- [6, 7, 20, 1000, 1 bsl 70]].

jitter_spreads_test() ->
    Config = esdb_gater_retry:new_config(1000, 5000, 5),
    Delays = lists:usort([esdb_gater_retry:calculate_delay(0, Config) || _ <- lists:seq(1, 200)]),
    ?assert(length(Delays) > 20).

waited_delays_at_the_cap_are_75_to_100_percent_of_it_test() ->
    Delays = delays(esdb_gater_retry:new_config(8, 8, 40)),
    ?assertEqual(39, length(Delays)),
    ?assert(lists:all(fun(D) -> D >= 6 andalso D =< 8 end, Delays)),
    ?assert(length(lists:usort(Delays)) > 1).

%% Where a quarter more would be above the maximum, and the doubled delay is not.
waited_delays_near_the_cap_are_jittered_test() ->
    Delays = lists:append([delays(esdb_gater_retry:new_config(19, 20, 2)) || _ <- lists:seq(1, 60)]),
    ?assertEqual(60, length(Delays)),
    ?assert(lists:all(fun(D) -> D >= 15 andalso D =< 20 end, Delays)),
    ?assert(length([D || D <- Delays, D =:= 20]) < 40),
    ?assert(length(lists:usort(Delays)) > 2).

waited_delays_double_test() ->
    [D0, D1, D2] = delays(esdb_gater_retry:new_config(8, 1000, 4)),
    ?assert(D0 >= 8 andalso D0 =< 10),
    ?assert(D1 >= 16 andalso D1 =< 20),
    ?assert(D2 >= 32 andalso D2 =< 40).

%% As the events tell them.
delays(Config) ->
    Self = self(),
    Id = make_ref(),
    ok = esdb_gater_telemetry:attach(
           Id, fun([esdb_gater, retry, attempt], #{delay_ms := Delay}, #{store_id := Store}, _) ->
                       Self ! {Store, Delay};
                  (_, _, _, _) ->
                       ok
               end, none),
    {error, {retries_exhausted, busy}} =
        esdb_gater_retry:with_retry(Id, fun() -> {error, busy} end, Config),
    ok = esdb_gater_telemetry:detach(Id),
    (fun Collect() -> receive {Id, Delay} -> [Delay | Collect()] after 0 -> [] end end)().

%%% Configurations

max_attempts_counts_all_calls_test() ->
    ?assertMatch(#retry_config{base_delay_ms = 1, max_delay_ms = 2, max_retries = 2},
                 esdb_gater_retry:new_config(1, 2, 3)).

defaults_are_100_5000_5_test() ->
    ?assertEqual(#retry_config{base_delay_ms = 100, max_delay_ms = 5000, max_retries = 4},
                 esdb_gater_retry:default_config()).

defaults_come_from_the_environment_test() ->
    ok = application:set_env(erl_esdb_gater, retry, [{base_delay_ms, 7}, {max_attempts, 2}]),
    try
        ?assertMatch(#retry_config{base_delay_ms = 7, max_delay_ms = 5000, max_retries = 1},
                     esdb_gater_retry:default_config()),
        ?assertMatch(#retry_config{base_delay_ms = 9, max_retries = 1},
                     esdb_gater_retry:new_config(#{base_delay_ms => 9}))
    after
        ok = application:unset_env(erl_esdb_gater, retry)
    end.

bad_values_raise_badarg_test() ->
    [?assertError(badarg, esdb_gater_retry:new_config(Base, Max, Attempts))
     || {Base, Max, Attempts} <- [{-1, 1, 1}, {2, 1, 1}, {1, 1, 0}, {1.0, 2, 3}, {a, b, c},
                                  {1, infinity, 1}, {1, 1, -5}]],
    [?assertError(badarg, esdb_gater_retry:new_config(Map))
     || Map <- [#{ambiguous => never}, #{deadline_ms => 0}, #{prefer => remote},
                #{unknown => 1}, [], 5]].

%% Also where they come as a record, or not at the first call but from the environment.
bad_values_are_refused_with_their_key_when_they_are_given_test_() ->
    Cases = [{"max_atempts; did you mean max_attempts?", fun() ->
                  esdb_gater_retry:new_config(#{max_atempts => 3}) end},
             {"unknown key colour", fun() -> esdb_gater_retry:new_config(#{colour => blue}) end},
             {"max_attempts is 0", fun() -> esdb_gater_retry:new_config(1, 2, 0) end},
             {"base_delay_ms is 1.5", fun() -> esdb_gater_retry:new_config(1.5, 2, 3) end},
             {"max_delay_ms is 1", fun() -> esdb_gater_retry:new_config(2, 1, 3) end},
             {"max_delay_ms is 4294967296",
              fun() -> esdb_gater_retry:new_config(1, 1 bsl 32, 3) end},
             {"prefer is remote", fun() ->
                  esdb_gater_api:execute(s, fun(_) -> ok end, #{prefer => remote}) end},
             {"max_retries is -1", fun() ->
                  esdb_gater_api:execute(s, fun(_) -> ok end, #retry_config{max_retries = -1}) end},
             {"max_retries is many", fun() ->
                  esdb_gater_retry:with_retry(s, fun() -> ok end, {retry_config, 1, 2, many}) end},
             {"must be a map", fun() -> esdb_gater_retry:with_retry(s, fun() -> ok end, 5) end}],
    [{Text, fun() ->
                try Fun() of
                    Result -> error({not_refused, Result})
                catch
                    error:badarg:Stack ->
                        Shown = erl_error:format_exception(error, badarg, Stack),
                        ?assertNotEqual(nomatch, string:find(lists:flatten(Shown), Text))
                end
            end} || {Text, Fun} <- Cases].

all_keys_are_good_in_the_environment_test() ->
    Environment = [{base_delay_ms, 1}, {max_delay_ms, 2}, {max_retries, 7}, {ambiguous, return},
                   {deadline_ms, 50}, {prefer, local}],
    Expected = #retry_config{base_delay_ms = 1, max_delay_ms = 2, max_retries = 7,
                             ambiguous = return, deadline_ms = 50, prefer = local},
    {ok, #{retry := Retry}, []} = esdb_gater_config:check([{retry, Environment}]),
    ok = esdb_gater_retry:configure(Retry),
    try
        ?assertEqual(Expected, esdb_gater_retry:default_config()),
        %% The environment is not looked at again.
        ok = application:set_env(erl_esdb_gater, retry, [{base_delay_ms, bad}]),
        ?assertEqual(Expected, esdb_gater_retry:default_config()),
        ?assertEqual({error, no_workers}, only_reason(esdb_gater_api:execute(s, fun(_) -> ok end)))
    after
        ok = esdb_gater_retry:forget(),
        ok = application:unset_env(erl_esdb_gater, retry)
    end.

only_reason({error, {retries_exhausted, Reason}}) -> {error, Reason}.

an_unknown_key_of_the_environment_is_no_error_later_test() ->
    ok = application:set_env(erl_esdb_gater, retry, [{base_delay, 1}, {max_attempts, 2},
                                                     {base_delay_ms, 0}]),
    try
        ?assertEqual({error, {retries_exhausted, no_workers}},
                     esdb_gater_api:execute(s, fun(_) -> ok end))
    after
        ok = application:unset_env(erl_esdb_gater, retry)
    end.

what_is_no_store_is_refused_and_not_retried_test() ->
    ?assertEqual({error, badarg}, esdb_gater_api:execute(<<"b">>, fun(_) -> ok end)),
    ?assertEqual({error, badarg}, esdb_gater_api:cast(<<"b">>, fun(_) -> ok end)),
    ?assertEqual({error, badarg}, esdb_gater_api:get_workers(<<"b">>)).

a_call_of_the_caller_itself_is_returned_at_once_test() ->
    Counter = counters:new(1, []),
    Call = fun() -> counters:add(Counter, 1, 1), gen_server:call(self(), hello) end,
    ?assertEqual({error, calling_self}, esdb_gater_retry:with_retry(s, Call)),
    ?assertEqual(1, counters:get(Counter, 1)).

the_record_of_the_original_is_accepted_test() ->
    ?assertEqual({ok, 1}, esdb_gater_retry:with_retry(s, fun() -> 1 end, {retry_config, 1, 2, 3})).

%%% Counts and classes

calls(Config, Result) ->
    Counter = counters:new(1, []),
    Answer = esdb_gater_retry:with_retry(s, fun() -> counters:add(Counter, 1, 1), Result() end,
                                         Config),
    {counters:get(Counter, 1), Answer}.

exactly_max_attempts_calls_are_made_test() ->
    [?assertEqual({N, {error, {retries_exhausted, busy}}},
                  calls(esdb_gater_retry:new_config(0, 0, N), fun() -> {error, busy} end))
     || N <- [1, 2, 5, 17]].

reasons_no_repetition_can_help_are_returned_at_once_test() ->
    [?assertEqual({1, {error, Reason}},
                  calls(esdb_gater_retry:new_config(0, 0, 3), fun() -> {error, Reason} end))
     || Reason <- [{stream_not_found, s}, {wrong_expected_version, 1},
                   {wrong_expected_version, 1, 2}, not_found, {invalid_stream_id, a, b},
                   {invalid_filter, f}, {subscription_not_found, s}, {no_snapshot, s},
                   {context_changed, c}, unknown_request, calling_self]].

everything_else_is_retried_test_() ->
    ?FORALL(R, ?SUCHTHAT(Reason, any(), esdb_gater_retry:retryable(Reason)),
        calls(esdb_gater_retry:new_config(0, 0, 2), fun() -> {error, R} end)
            =:= {2, {error, {retries_exhausted, R}}}).

exits_become_reasons_test() ->
    Mapped = fun(Exit) ->
                 {2, {error, {retries_exhausted, Reason}}} =
                     calls(esdb_gater_retry:new_config(0, 0, 2), fun() -> exit(Exit) end),
                 Reason
             end,
    Call = {gen_server, call, [a, b]},
    [?assertEqual(Reason, Mapped(Exit))
     || {Exit, Reason} <- [{noproc, worker_down}, {{noproc, Call}, worker_down},
                           {{nodedown, n@h}, node_down}, {{{nodedown, n@h}, Call}, node_down},
                           {{noconnection, Call}, node_down},
                           {timeout, timeout}, {{timeout, Call}, timeout},
                           {{shutdown, Call}, {worker_exit, shutdown}},
                           {normal, {worker_exit, normal}}]].

errors_are_raised_and_not_retried_test() ->
    Counter = counters:new(1, []),
    ?assertError(my_bug,
                 esdb_gater_retry:with_retry(s, fun() ->
                                                    counters:add(Counter, 1, 1),
                                                    error(my_bug)
                                                end)),
    ?assertEqual(1, counters:get(Counter, 1)).

ambiguous_failures_are_returned_if_so_configured_test() ->
    Config = esdb_gater_retry:new_config(#{base_delay_ms => 0, max_delay_ms => 0,
                                           ambiguous => return}),
    [?assertEqual({1, {error, Reason}}, calls(Config, fun() -> exit(Exit) end))
     || {Exit, Reason} <- [{timeout, timeout}, {{nodedown, n@h}, node_down},
                           {killed, {worker_exit, killed}}]],
    %% Nothing was carried out by a worker that was not there.
    ?assertEqual({5, {error, {retries_exhausted, worker_down}}},
                 calls(Config, fun() -> exit(noproc) end)).

no_retry_begins_after_the_deadline_test() ->
    Config = esdb_gater_retry:new_config(#{base_delay_ms => 50, max_delay_ms => 50,
                                           max_attempts => 1000, deadline_ms => 120}),
    Started = erlang:monotonic_time(millisecond),
    {Calls, {error, {retries_exhausted, busy}}} = calls(Config, fun() -> {error, busy} end),
    ?assert(Calls >= 1 andalso Calls =< 4),
    %% It returns before the deadline, whenever the machine lets it.
    ?assert(erlang:monotonic_time(millisecond) - Started < 5000).

a_success_ends_it_test() ->
    Counter = counters:new(1, []),
    Third = fun() ->
                counters:add(Counter, 1, 1),
                case counters:get(Counter, 1) of 3 -> done; _ -> {error, busy} end
            end,
    ?assertEqual({ok, done}, esdb_gater_retry:with_retry(s, Third,
                                                         esdb_gater_retry:new_config(0, 0, 5))),
    ?assertEqual(3, counters:get(Counter, 1)).

%%% Shapes

result() ->
    oneof([any(), ok, {ok, any()}, {ok, ok}, {ok, {ok, any()}}, {ok, {ok, {ok, any()}}},
           {error, any()}]).

no_result_is_an_ok_in_an_ok_test_() ->
    ?FORALL(Result, result(),
        case esdb_gater_retry:with_retry(s, fun() -> Result end,
                                         esdb_gater_retry:new_config(0, 0, 1)) of
            {ok, {ok, _}} -> false;
            {ok, _} -> true;
            {error, _} -> element(1, Result) =:= error
        end).

results_pass_through_test_() ->
    ?FORALL(Term, any(),
        begin
            Once = fun(Result) ->
                       esdb_gater_retry:with_retry(s, fun() -> Result end,
                                                   esdb_gater_retry:new_config(0, 0, 1))
                   end,
            Plain = case Term of {ok, _} -> true; {error, _} -> true; _ -> false end,
            (Plain orelse Once({ok, Term}) =:= {ok, Term})
                andalso (Plain orelse Once(Term) =:= {ok, Term})
                andalso Once(ok) =:= {ok, ok}
        end).
