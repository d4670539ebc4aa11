%% @doc The channels as an application uses them: with the gateway that this application starts by
%% itself. `rebar3 ct' runs it.
-module(esdb_channel_SUITE).

-include_lib("stdlib/include/assert.hrl").

-export([all/0, suite/0, init_per_suite/1, end_per_suite/1, init_per_testcase/2]).
-export([a_subscriber_is_sent_what_is_published/1, messages_come_in_order/1,
         who_has_unsubscribed_is_sent_nothing/1, topics_and_channels_do_not_mix/1,
         subscribing_twice_delivers_once/1, a_dead_subscriber_is_removed/1,
         critical_channels_take_signed_messages_only/1, a_forged_signature_is_refused/1,
         a_rate_limit_holds_per_topic/1, the_last_health_message_is_replayed/1,
         a_bad_topic_is_refused/1]).

suite() -> [{timetrap, {minutes, 2}}].

all() ->
    [a_subscriber_is_sent_what_is_published, messages_come_in_order,
     who_has_unsubscribed_is_sent_nothing, topics_and_channels_do_not_mix,
     subscribing_twice_delivers_once, a_dead_subscriber_is_removed,
     critical_channels_take_signed_messages_only, a_forged_signature_is_refused,
     a_rate_limit_holds_per_topic, the_last_health_message_is_replayed, a_bad_topic_is_refused].

init_per_suite(Config) ->
    Program = filename:join(code:priv_dir(erl_esdb_gater), "esdb-gater"),
    case filelib:is_regular(Program) of
        true ->
            {ok, Started} = application:ensure_all_started(erl_esdb_gater),
            [{started, Started} | Config];
        false ->
            {skip, "the gateway program is not built: it takes cargo"}
    end.

end_per_suite(Config) ->
    {started, Started} = lists:keyfind(started, 1, Config),
    lists:foreach(fun application:stop/1, lists:reverse(Started)).

%% Every test has a topic of its own.
init_per_testcase(Case, Config) ->
    [{topic, atom_to_binary(Case)} | Config].

a_subscriber_is_sent_what_is_published(Config) ->
    Topic = topic(Config),
    ok = esdb_channel_server:subscribe(esdb_channel_events, Topic, self()),
    Terms = [#{id => 1}, [], "text", {a, 1.5, self()}, <<0, 255>>],
    [ok = esdb_channel_server:publish(esdb_channel_events, Topic, Term) || Term <- Terms],
    ?assertEqual(Terms, [next(esdb_channel_events, Topic) || _ <- Terms]).

messages_come_in_order(Config) ->
    Topic = topic(Config),
    ok = esdb_channel_server:subscribe(esdb_channel_system, Topic, self()),
    Numbers = lists:seq(1, 500),
    [ok = esdb_channel_server:publish(esdb_channel_system, Topic, N) || N <- Numbers],
    ?assertEqual(Numbers, [next(esdb_channel_system, Topic) || _ <- Numbers]).

who_has_unsubscribed_is_sent_nothing(Config) ->
    Topic = topic(Config),
    ok = esdb_channel_server:subscribe(esdb_channel_events, Topic, self()),
    ok = esdb_channel_server:unsubscribe(esdb_channel_events, Topic, self()),
    ok = esdb_channel_server:unsubscribe(esdb_channel_events, Topic, self()),
    ok = esdb_channel_server:subscribe(esdb_channel_events, <<"marker">>, self()),
    ok = esdb_channel_server:publish(esdb_channel_events, Topic, unwanted),
    ok = esdb_channel_server:publish(esdb_channel_events, <<"marker">>, marker),
    marker = next(esdb_channel_events, <<"marker">>),
    nothing().

topics_and_channels_do_not_mix(Config) ->
    Topic = topic(Config),
    ok = esdb_channel_server:subscribe(esdb_channel_events, Topic, self()),
    ok = esdb_channel_server:publish(esdb_channel_audit, Topic, other_channel),
    ok = esdb_channel_server:publish(esdb_channel_events, <<Topic/binary, "2">>, other_topic),
    ok = esdb_channel_server:publish(esdb_channel_events, Topic, wanted),
    wanted = next(esdb_channel_events, Topic),
    nothing().

subscribing_twice_delivers_once(Config) ->
    Topic = topic(Config),
    [ok = esdb_channel_server:subscribe(esdb_channel_lifecycle, Topic, self()) || _ <- [1, 2]],
    [ok = esdb_channel_server:publish(esdb_channel_lifecycle, Topic, N) || N <- [1, 2]],
    [1, 2] = [next(esdb_channel_lifecycle, Topic) || _ <- [1, 2]],
    nothing().

a_dead_subscriber_is_removed(Config) ->
    Topic = topic(Config),
    Subscriber = spawn(fun() -> receive stop -> ok end end),
    ok = esdb_channel_server:subscribe(esdb_channel_events, Topic, Subscriber),
    ?assertEqual([Subscriber], esdb_channel_server:get_subscribers(esdb_channel_events, Topic)),
    Subscriber ! stop,
    until(fun() -> esdb_channel_server:get_subscribers(esdb_channel_events, Topic) =:= [] end).

critical_channels_take_signed_messages_only(Config) ->
    Topic = topic(Config),
    [begin
         ok = esdb_channel_server:subscribe(Channel, Topic, self()),
         {error, signature_required} = esdb_channel_server:publish(Channel, Topic, #{type => alert}),
         Signed = esdb_pubsub_security:sign(#{type => alert, level => critical}),
         ok = esdb_channel_server:publish(Channel, Topic, Signed),
         Signed = next(Channel, Topic)
     end || Channel <- [esdb_channel_alerts, esdb_channel_security]].

a_forged_signature_is_refused(Config) ->
    Topic = topic(Config),
    Forged = esdb_pubsub_security:sign(#{type => alert}, <<"another secret">>),
    {error, invalid_signature} = esdb_channel_server:publish(esdb_channel_alerts, Topic, Forged).

a_rate_limit_holds_per_topic(Config) ->
    Topic = topic(Config),
    Begun = erlang:monotonic_time(millisecond),
    Answers = [esdb_channel_server:publish(esdb_channel_diagnostics, Topic, N)
               || N <- lists:seq(1, 400)],
    Seconds = (erlang:monotonic_time(millisecond) - Begun) / 1000,
    Taken = length([ok || ok <- Answers]),
    ?assert(Taken >= 100),
    ?assert(Taken =< 100 + 100 * Seconds + 1),
    [{error, rate_limited}] = lists:usort(Answers) -- [ok],
    ok = esdb_channel_server:publish(esdb_channel_diagnostics, <<Topic/binary, "2">>, other).

the_last_health_message_is_replayed(Config) ->
    Topic = topic(Config),
    [ok = esdb_channel_server:publish(esdb_channel_health, Topic, N) || N <- [1, 2, 3]],
    ok = esdb_channel_server:subscribe(esdb_channel_health, Topic, self()),
    3 = next(esdb_channel_health, Topic),
    nothing().

a_bad_topic_is_refused(_Config) ->
    [begin
         {error, {bad_topic, Why}} = esdb_channel_server:publish(esdb_channel_events, Topic, m),
         {error, {bad_topic, Why}} = esdb_channel_server:subscribe(esdb_channel_events, Topic, self()),
         {error, {bad_topic, Why}} = esdb_channel_server:unsubscribe(esdb_channel_events, Topic, self())
     end || {Topic, Why} <- [{<<>>, empty}, {"text", not_binary},
                             {binary:copy(<<"x">>, 256), too_long}]].

%%% Helpers

topic(Config) ->
    {topic, Topic} = lists:keyfind(topic, 1, Config),
    Topic.

next(Channel, Topic) ->
    receive {channel_message, Channel, Topic, Message} -> Message
    after 20000 -> error({no_message, Channel, Topic})
    end.

nothing() ->
    receive {channel_message, _, _, _} = Message -> error({unwanted, Message})
    after 0 -> ok
    end.

until(Condition) -> until(Condition, erlang:monotonic_time(millisecond) + 20000).

until(Condition, Deadline) ->
    case {Condition(), erlang:monotonic_time(millisecond) < Deadline} of
        {true, _} -> ok;
        {false, true} -> timer:sleep(10), until(Condition, Deadline)
    end.
