%%% What programs written for the original take for granted, without a gateway and without the
%%% application. Each assertion runs by itself, with nothing prepared, and once more in a fixture
%%% that prepares what such programs do.
-module(esdb_gater_original_tests).

-include_lib("eunit/include/eunit.hrl").
-include("../include/esdb_gater.hrl").
-include("../include/esdb_gater_telemetry.hrl").

-define(SECRET, <<"a secret of these tests">>).
-define(WAIT_MS, 4000).

prepared_test_() ->
    {setup, fun prepare/0, fun(_) -> esdb_gater_telemetry:detach_default_handler() end,
     [{atom_to_list(Name), fun() -> apply(?MODULE, Name, []) end} || Name <- assertions()]}.

prepare() ->
    ok = esdb_pubsub_security:set_secret(?SECRET),
    case pg:start(esdb_channel_scope) of
        {ok, _} -> ok;
        {error, {already_started, _}} -> ok
    end.

%% All that eunit finds by its name.
assertions() ->
    [Name || {Name, 0} <- ?MODULE:module_info(exports),
             lists:suffix("_test", atom_to_list(Name))].

%%% Retrying

delays_double_with_up_to_a_quarter_more_test() ->
    Config = #retry_config{base_delay_ms = 100, max_delay_ms = 10000},
    [begin
         Delay = esdb_gater_retry:calculate_delay(Attempt, Config),
         ?assert(Delay >= Base andalso Delay =< Base * 5 div 4)
     end || {Attempt, Base} <- [{0, 100}, {1, 200}, {2, 400}, {5, 3200}]].

a_delay_is_never_above_the_maximum_test() ->
    Config = #retry_config{base_delay_ms = 100, max_delay_ms = 500},
    ?assertEqual(500, esdb_gater_retry:calculate_delay(10, Config)).

success_is_called_for_once_test() ->
    ?assertEqual({{ok, yes}, 1}, calls(fun(_) -> {ok, yes} end, 3)).

a_failure_is_repeated_until_it_succeeds_test() ->
    Third = fun(N) when N < 3 -> {error, not_yet}; (_) -> {ok, at_last} end,
    ?assertEqual({{ok, at_last}, 3}, calls(Third, 3)).

retries_are_one_less_than_calls_test() ->
    ?assertEqual({{error, {retries_exhausted, never}}, 3}, calls(fun(_) -> {error, never} end, 2)).

calls(Answer, MaxRetries) ->
    Calls = counters:new(1, []),
    Result = esdb_gater_retry:with_retry(a_store, fun() ->
        counters:add(Calls, 1, 1),
        Answer(counters:get(Calls, 1))
    end, #retry_config{base_delay_ms = 1, max_delay_ms = 2, max_retries = MaxRetries}),
    {Result, counters:get(Calls, 1)}.

the_default_configuration_is_sound_test() ->
    #retry_config{base_delay_ms = Base, max_delay_ms = Max, max_retries = Retries} =
        esdb_gater_retry:default_config(),
    ?assert(Base > 0 andalso Max >= Base andalso Retries >= 0).

%%% Signatures

signing_adds_a_signature_and_a_time_test() ->
    Signed = esdb_pubsub_security:sign(#{type => test, data => <<"kept">>}),
    ?assertMatch(#{type := test, data := <<"kept">>, signature := _, signed_at := _}, Signed),
    ?assertEqual(ok, esdb_pubsub_security:verify(Signed)).

what_was_changed_does_not_verify_test() ->
    Signed = esdb_pubsub_security:sign(#{type => test}),
    [?assertEqual({error, invalid_signature}, esdb_pubsub_security:verify(Changed))
     || Changed <- [Signed#{signature := <<"another">>}, Signed#{signature := <<>>},
                    Signed#{type := other}]].

what_was_not_signed_does_not_verify_test() ->
    ?assertEqual({error, missing_signature}, esdb_pubsub_security:verify(#{type => test})).

%% Signed as the original does, by its own means.
an_old_message_has_expired_test() ->
    Message = #{type => test, signed_at => erlang:system_time(second) - 360},
    Mac = crypto:mac(hmac, sha256, esdb_pubsub_security:get_secret(),
                     term_to_binary(lists:sort(maps:to_list(Message)))),
    ?assertEqual({error, message_expired},
                 esdb_pubsub_security:verify(Message#{signature => base64:encode(Mac)})).

a_secret_of_ones_own_signs_and_verifies_test() ->
    Signed = esdb_pubsub_security:sign(#{type => test}, <<"mine">>),
    ?assertEqual(ok, esdb_pubsub_security:verify(Signed, <<"mine">>)),
    ?assertEqual({error, invalid_signature}, esdb_pubsub_security:verify(Signed, <<"yours">>)).

the_secret_that_was_set_is_given_test() ->
    ok = esdb_pubsub_security:set_secret(<<"another">>),
    ?assertEqual(<<"another">>, esdb_pubsub_security:get_secret()),
    ok = esdb_pubsub_security:set_secret(?SECRET),
    ?assertEqual(?SECRET, esdb_pubsub_security:get_secret()).

%%% Telemetry

the_default_handler_is_attached_once_test() ->
    ok = esdb_gater_telemetry:attach_default_handler(),
    ?assertEqual({error, already_exists}, esdb_gater_telemetry:attach_default_handler()),
    ok = esdb_gater_telemetry:detach_default_handler(),
    ?assertEqual({error, not_found}, esdb_gater_telemetry:detach_default_handler()).

every_event_reaches_a_handler_test() ->
    Self = self(),
    Handler = fun(Event, Measurements, Metadata, tag) ->
                  Self ! {event, Event, Measurements, Metadata}
              end,
    ok = esdb_gater_telemetry:attach(original, Handler, tag),
    ?assertEqual({error, already_exists}, esdb_gater_telemetry:attach(original, Handler, tag)),
    Names = [?GATER_WORKER_REGISTERED, ?GATER_WORKER_UNREGISTERED, ?GATER_WORKER_LOOKUP,
             ?GATER_REQUEST_START, ?GATER_REQUEST_STOP, ?GATER_REQUEST_ERROR,
             ?GATER_RETRY_ATTEMPT, ?GATER_RETRY_EXHAUSTED, ?GATER_CLUSTER_NODE_UP,
             ?GATER_CLUSTER_NODE_DOWN, ?GATER_CHANNEL_BROADCAST],
    [begin
         ok = esdb_gater_telemetry:emit(Event, #{duration => 1}, #{store_id => a_store}),
         receive {event, Event, #{duration := 1}, #{store_id := a_store}} -> ok
         after ?WAIT_MS -> error({no_event, Event})
         end
     end || Event <- Names],
    ok = esdb_gater_telemetry:detach(original),
    ?assertEqual({error, not_found}, esdb_gater_telemetry:detach(original)).

%%% Channels that a program starts itself

channels_tell_what_they_are_test() ->
    Priorities = #{critical => [alerts, security], high => [events, health],
                   normal => [system, metrics, audit, lifecycle], low => [logging, diagnostics]},
    Rates = #{health => 100, metrics => 10000, logging => 1000, diagnostics => 100},
    [begin
         Module = list_to_existing_atom("esdb_channel_" ++ atom_to_list(Name)),
         ?assertEqual({Priority, maps:get(Name, Rates, infinity), Priority =:= critical},
                      {Module:priority(), Module:max_rate(), Module:requires_signature()})
     end || {Priority, Names} <- maps:to_list(Priorities), Name <- Names].

a_channel_lives_until_it_is_stopped_test() ->
    with_channel(esdb_channel_events, fun(_Name, Pid) -> ?assert(is_process_alive(Pid)) end).

subscribers_get_the_message_as_it_was_test() ->
    with_channel(esdb_channel_events, fun(Name, _) ->
        Topic = <<"topic">>,
        Others = [spawn_link(fun() -> receive M -> Self ! {forwarded, self(), M} end end)
                  || Self <- [self()], _ <- [1, 2]],
        [ok = esdb_channel_server:subscribe(Name, Topic, Pid) || Pid <- [self() | Others]],
        ok = esdb_channel_server:publish(Name, Topic, #{data => <<"hello">>}),
        Expected = {channel_message, Name, Topic, #{data => <<"hello">>}},
        ?assertEqual(Expected, next()),
        [receive {forwarded, Pid, Message} -> ?assertEqual(Expected, Message)
         after ?WAIT_MS -> error(no_message)
         end || Pid <- Others]
    end).

nothing_comes_after_unsubscribing_test() ->
    with_channel(esdb_channel_events, fun(Name, _) ->
        ok = esdb_channel_server:subscribe(Name, <<"left">>, self()),
        ok = esdb_channel_server:subscribe(Name, <<"kept">>, self()),
        ok = esdb_channel_server:unsubscribe(Name, <<"left">>, self()),
        [ok = esdb_channel_server:publish(Name, Topic, 1) || Topic <- [<<"left">>, <<"kept">>]],
        ?assertMatch({channel_message, Name, <<"kept">>, 1}, next())
    end).

a_channel_keeps_to_its_rate_test() ->
    with_channel(esdb_channel_health, fun(Name, _) ->
        Answers = [esdb_channel_server:publish(Name, <<"t">>, I) || I <- lists:seq(1, 1000)],
        ?assertEqual([ok, {error, rate_limited}], lists:usort(Answers))
    end).

critical_channels_take_signed_messages_test() ->
    with_channel(esdb_channel_alerts, fun(Name, _) ->
        Publish = fun(Message) -> esdb_channel_server:publish(Name, <<"t">>, Message) end,
        ?assertEqual(ok, Publish(esdb_pubsub_security:sign(#{type => alert}))),
        ?assertEqual({error, signature_required}, Publish(#{type => alert})),
        Forged = #{type => alert, signature => <<"x">>, signed_at => erlang:system_time(second)},
        ?assertEqual({error, invalid_signature}, Publish(Forged))
    end).

with_channel(Module, Fun) ->
    Name = list_to_atom("original_" ++ integer_to_list(erlang:unique_integer([positive]))),
    {ok, Pid} = esdb_channel_server:start_link(Module, #{name => Name}),
    _ = Fun(Name, Pid),
    ok = gen_server:stop(Pid),
    ?assertNot(is_process_alive(Pid)).

%% Timers of other modules' tests may still run out in this process.
next() ->
    receive
        {channel_message, _, _, _} = Message -> Message;
        {Forwarder, {channel_message, _, _, _}} = Message when is_pid(Forwarder) -> Message
    after ?WAIT_MS -> error(no_message)
    end.
