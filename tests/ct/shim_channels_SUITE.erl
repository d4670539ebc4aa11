%% @doc Channels through the shim: one relay per channel and node.
-module(shim_channels_SUITE).

-include_lib("stdlib/include/assert.hrl").

-export([all/0, groups/0, suite/0, init_per_suite/1, end_per_suite/1, init_per_group/2,
         end_per_group/2]).
-export([a_message_reaches_subscribers_on_all_nodes_as_it_was/1, subscribing_twice_delivers_once/1,
         nothing_comes_after_unsubscribing/1, a_dead_subscriber_is_removed/1,
         one_copy_crosses_the_wire_per_node/1, a_topic_of_one_channel_is_none_of_another/1,
         the_last_health_message_is_replayed_also_to_late_ones/1,
         a_subscriber_of_another_shim_gets_one_copy/1,
         a_subscriber_without_a_shim_is_subscribed_itself/1, bad_topics_and_pids_are_refused/1,
         an_unknown_channel_is_refused/1, a_channel_of_the_gateways_own_works/1,
         publishing_is_judged_by_the_gateway/1, messages_of_a_publisher_arrive_in_order/1,
         a_relay_can_be_called_as_a_channel_of_a_gateway/1]).

-define(EVENTS, esdb_channel_events).

suite() -> [{timetrap, {minutes, 2}}].

all() -> [{group, otp25}, {group, otp27}, {group, otp29}].

groups() ->
    Cases =
        [a_message_reaches_subscribers_on_all_nodes_as_it_was, subscribing_twice_delivers_once,
         nothing_comes_after_unsubscribing, a_dead_subscriber_is_removed,
         one_copy_crosses_the_wire_per_node, a_topic_of_one_channel_is_none_of_another,
         the_last_health_message_is_replayed_also_to_late_ones,
         a_subscriber_of_another_shim_gets_one_copy, a_subscriber_without_a_shim_is_subscribed_itself,
         bad_topics_and_pids_are_refused, an_unknown_channel_is_refused,
         a_channel_of_the_gateways_own_works, publishing_is_judged_by_the_gateway,
         messages_of_a_publisher_arrive_in_order, a_relay_can_be_called_as_a_channel_of_a_gateway],
    [{Release, Cases} || Release <- [otp25, otp27, otp29]].

init_per_suite(Config) -> Config.

end_per_suite(_Config) -> ok.

init_per_group(Group, Config) ->
    case gater_harness:on_release(Group, Config) of
        {skip, _} = Skip ->
            Skip;
        Chosen ->
            Release = #{otp => value(otp, Chosen)},
            World = gater_harness:new(),
            Gateway = gater_harness:gateway(World, #{
                env => [{"ESDB_GATER_SECRET", "secret"}],
                config => "[channels.own]\nreplay_last = true\n[channels.slow]\nmax_rate = 2\n"}),
            [A, B] = [gater_shim:node(World, [?MODULE], Release) || _ <- [1, 2]],
            [ok = gater_shim:start(Beam, [{security, [{hmac_secret, "secret"}]}
                                          | gater_shim:named([Gateway])]) || Beam <- [A, B]],
            [{world, World}, {gateway, Gateway}, {a, A}, {b, B} | Chosen]
    end.

end_per_group(_Group, Config) ->
    gater_harness:stop(value(world, Config)).

a_message_reaches_subscribers_on_all_nodes_as_it_was(Config) ->
    {A, B} = both(Config),
    Subscribers = [subscriber(Beam, ?EVENTS, <<"all">>) || Beam <- [A, A, B, B]],
    Terms = on(A, fun() ->
        Terms = [#{a => 1.5, <<"b">> => [self(), make_ref()]}, {nested, {<<0:7>>, "list", []}},
                 1 bsl 200, fun lists:map/2, <<0:(100 * 1024 * 8)>>],
        [ok = esdb_channel_server:publish(?EVENTS, <<"all">>, Term) || Term <- Terms],
        Terms
    end),
    Expected = [{channel_message, ?EVENTS, <<"all">>, Term} || Term <- Terms],
    [until(fun() -> gater_harness:messages(S) =:= Expected end) || S <- Subscribers].

subscribing_twice_delivers_once(Config) ->
    {A, _} = both(Config),
    Subscriber = subscriber(A, ?EVENTS, <<"twice">>),
    ok = subscribe(Subscriber, ?EVENTS, <<"twice">>),
    ok = publish(A, ?EVENTS, <<"twice">>, 1),
    ok = publish(A, ?EVENTS, <<"twice">>, 2),
    await_payloads(Subscriber, [1, 2]).

nothing_comes_after_unsubscribing(Config) ->
    {A, B} = both(Config),
    [Leaves, Stays] = [subscriber(A, ?EVENTS, <<"leaving">>) || _ <- [1, 2]],
    ok = publish(B, ?EVENTS, <<"leaving">>, 1),
    await_payloads(Leaves, [1]),
    on(A, fun() ->
        ok = esdb_channel_server:unsubscribe(?EVENTS, <<"leaving">>, pid(Leaves)),
        ok = esdb_channel_server:unsubscribe(?EVENTS, <<"leaving">>, pid(Leaves)),
        ok = esdb_channel_server:unsubscribe(?EVENTS, <<"never heard">>, pid(Leaves))
    end),
    ok = publish(B, ?EVENTS, <<"leaving">>, 2),
    await_payloads(Stays, [1, 2]),
    ?assertEqual([1], payloads(Leaves)),
    %% With the last one the relay leaves too.
    on(A, fun() -> ok = esdb_channel_server:unsubscribe(?EVENTS, <<"leaving">>, pid(Stays)) end),
    until(fun() -> at_gateway(Config, ?EVENTS, <<"leaving">>) =:= [] end).

a_dead_subscriber_is_removed(Config) ->
    {A, B} = both(Config),
    Dies = subscriber(A, ?EVENTS, <<"dying">>),
    Other = subscriber(B, ?EVENTS, <<"dying">>),
    Known = fun() -> on(A, fun() -> esdb_channel_server:get_subscribers(?EVENTS, <<"dying">>) end) end,
    ?assertEqual(lists:usort([pid(Dies), pid(Other)]), Known()),
    on(A, fun() -> exit(pid(Dies), kill) end),
    until(fun() -> Known() =:= [pid(Other)] end),
    until(fun() -> length(at_gateway(Config, ?EVENTS, <<"dying">>)) =:= 1 end).

one_copy_crosses_the_wire_per_node(Config) ->
    {A, B} = both(Config),
    Subscribers = [subscriber(Beam, ?EVENTS, <<"many">>) || Beam <- [A, B], _ <- lists:seq(1, 20)],
    ?assertEqual(2, length(at_gateway(Config, ?EVENTS, <<"many">>))),
    ?assertEqual(lists:usort([pid(S) || S <- Subscribers]),
                 on(B, fun() -> esdb_channel_server:get_subscribers(?EVENTS, <<"many">>) end)),
    ok = publish(A, ?EVENTS, <<"many">>, 1),
    [await_payloads(S, [1]) || S <- Subscribers].

a_topic_of_one_channel_is_none_of_another(Config) ->
    {A, _} = both(Config),
    Events = subscriber(A, ?EVENTS, <<"same">>),
    Audit = subscriber(A, esdb_channel_audit, <<"same">>),
    ok = publish(A, ?EVENTS, <<"same">>, event),
    ok = publish(A, esdb_channel_audit, <<"same">>, audit),
    await_payloads(Events, [event]),
    await_payloads(Audit, [audit]).

the_last_health_message_is_replayed_also_to_late_ones(Config) ->
    {A, B} = both(Config),
    Health = esdb_channel_health,
    ok = publish(B, Health, <<"h">>, old),
    ok = publish(B, Health, <<"h">>, up),
    First = subscriber(A, Health, <<"h">>),
    await_payloads(First, [up]),
    Late = subscriber(A, Health, <<"h">>),
    await_payloads(Late, [up]),
    ok = publish(B, Health, <<"h">>, down),
    [await_payloads(S, [up, down]) || S <- [First, Late]],
    await_payloads(subscriber(A, Health, <<"h">>), [down]),
    %% Subscribing again is no reason to be told again.
    ok = subscribe(First, Health, <<"h">>),
    ok = publish(B, Health, <<"h">>, last),
    await_payloads(First, [up, down, last]).

a_subscriber_of_another_shim_gets_one_copy(Config) ->
    {A, B} = both(Config),
    {_, Pid} = Subscriber = subscriber(B, ?EVENTS, <<"elsewhere">>),
    on(A, fun() -> ok = esdb_channel_server:subscribe(?EVENTS, <<"elsewhere">>, Pid) end),
    ok = publish(A, ?EVENTS, <<"elsewhere">>, 1),
    ok = publish(A, ?EVENTS, <<"elsewhere">>, 2),
    await_payloads(Subscriber, [1, 2]),
    on(A, fun() -> ok = esdb_channel_server:unsubscribe(?EVENTS, <<"elsewhere">>, Pid) end),
    ?assertEqual([], on(B, fun() -> esdb_channel_server:get_subscribers(?EVENTS, <<"elsewhere">>) end)).

a_subscriber_without_a_shim_is_subscribed_itself(Config) ->
    {A, _} = both(Config),
    Plain = gater_harness:node(value(world, Config), #{modules => [?MODULE]}),
    {_, Pid} = Subscriber = gater_harness:agent(Plain),
    on(A, fun() -> ok = esdb_channel_server:subscribe(?EVENTS, <<"plain">>, Pid) end),
    ?assertEqual([Pid], at_gateway(Config, ?EVENTS, <<"plain">>)),
    ?assertEqual([Pid], on(A, fun() -> esdb_channel_server:get_subscribers(?EVENTS, <<"plain">>) end)),
    ok = publish(A, ?EVENTS, <<"plain">>, 1),
    await_payloads(Subscriber, [1]),
    on(A, fun() -> ok = esdb_channel_server:unsubscribe(?EVENTS, <<"plain">>, Pid) end),
    until(fun() -> at_gateway(Config, ?EVENTS, <<"plain">>) =:= [] end).

bad_topics_and_pids_are_refused(Config) ->
    {A, _} = both(Config),
    on(A, fun() ->
        Long = binary:copy(<<"x">>, 256),
        [{error, {bad_topic, Reason}} = Answer
         || {Topic, Reason} <- [{<<>>, empty}, {Long, too_long}, {"text", not_binary}],
            Answer <- [esdb_channel_server:subscribe(?EVENTS, Topic, self()),
                       esdb_channel_server:publish(?EVENTS, Topic, m)]],
        ok = esdb_channel_server:subscribe(?EVENTS, binary:copy(<<"x">>, 255), self()),
        {error, badarg} = esdb_channel_server:subscribe(?EVENTS, <<"t">>, self_please),
        {error, badarg} = esdb_channel_server:subscribe("events", <<"t">>, self()),
        {Dead, Monitor} = spawn_monitor(fun() -> ok end),
        receive {'DOWN', Monitor, _, _, _} -> ok end,
        ok = esdb_channel_server:subscribe(?EVENTS, <<"dead">>, Dead)
    end),
    until(fun() -> at_gateway(Config, ?EVENTS, <<"dead">>) =:= [] end).

an_unknown_channel_is_refused(Config) ->
    {A, _} = both(Config),
    on(A, fun() ->
        {error, unknown_channel} = esdb_channel_server:subscribe(nothing, <<"t">>, self()),
        {error, unknown_channel} = esdb_channel_server:publish(nothing, <<"t">>, m)
    end).

a_channel_of_the_gateways_own_works(Config) ->
    {A, B} = both(Config),
    Subscriber = subscriber(A, own, <<"t">>),
    ok = publish(B, own, <<"t">>, 1),
    await_payloads(Subscriber, [1]),
    await_payloads(subscriber(A, own, <<"t">>), [1]).

publishing_is_judged_by_the_gateway(Config) ->
    {A, _} = both(Config),
    on(A, fun() ->
        Alerts = esdb_channel_alerts,
        {error, signature_required} = esdb_channel_server:publish(Alerts, <<"t">>, #{a => 1}),
        {error, signature_required} = esdb_channel_server:publish(Alerts, <<"t">>, text),
        Signed = esdb_pubsub_security:sign(#{a => 1}),
        ok = esdb_channel_server:publish(Alerts, <<"t">>, Signed),
        {error, invalid_signature} = esdb_channel_server:publish(Alerts, <<"t">>, Signed#{a => 2}),
        {error, missing_timestamp} =
            esdb_channel_server:publish(Alerts, <<"t">>, maps:remove(signed_at, Signed)),
        {error, message_expired} =
            esdb_channel_server:publish(Alerts, <<"t">>, Signed#{signed_at := 1}),
        Answers = [esdb_channel_server:publish(slow, <<"t">>, I) || I <- lists:seq(1, 20)],
        true = lists:member(ok, Answers),
        true = lists:member({error, rate_limited}, Answers)
    end).

messages_of_a_publisher_arrive_in_order(Config) ->
    {A, B} = both(Config),
    Subscriber = subscriber(B, ?EVENTS, <<"order">>),
    on(A, fun() ->
        [ok = esdb_channel_server:publish(?EVENTS, <<"order">>, I) || I <- lists:seq(1, 2000)]
    end),
    await_payloads(Subscriber, lists:seq(1, 2000)).

a_relay_can_be_called_as_a_channel_of_a_gateway(Config) ->
    {A, _} = both(Config),
    on(A, fun() ->
        ok = gen_server:call(?EVENTS, {subscribe, <<"by name">>, self()}),
        ok = gen_server:call(?EVENTS, {publish, <<"by name">>, 1}),
        receive {channel_message, ?EVENTS, <<"by name">>, 1} -> ok end,
        [_] = gen_server:call(?EVENTS, {get_subscribers, <<"by name">>}),
        ok = gen_server:cast(?EVENTS, {publish, <<"by name">>, 2}),
        receive {channel_message, ?EVENTS, <<"by name">>, 2} -> ok end,
        ok = gen_server:cast(?EVENTS, {unsubscribe, <<"by name">>, self()}),
        [] = gen_server:call(?EVENTS, {get_subscribers, <<"by name">>}),
        {error, {unknown_request, what}} = gen_server:call(?EVENTS, what)
    end).

%%% Helpers

value(Key, Config) -> proplists:get_value(Key, Config).

both(Config) -> {value(a, Config), value(b, Config)}.

on(Beam, Fun) -> gater_harness:on(Beam, Fun).

until(Condition) -> gater_harness:until(Condition).

pid({_, Pid}) -> Pid.

subscriber(Beam, Channel, Topic) ->
    Agent = gater_harness:agent(Beam),
    ok = subscribe(Agent, Channel, Topic),
    Agent.

subscribe({Beam, Pid}, Channel, Topic) ->
    on(Beam, fun() -> esdb_channel_server:subscribe(Channel, Topic, Pid) end).

publish(Beam, Channel, Topic, Message) ->
    on(Beam, fun() -> esdb_channel_server:publish(Channel, Topic, Message) end).

payloads(Agent) -> [Payload || {channel_message, _, _, Payload} <- gater_harness:messages(Agent)].

await_payloads(Agent, Expected) -> until(fun() -> payloads(Agent) =:= Expected end).

at_gateway(Config, Channel, Topic) ->
    gater_harness:call(value(a, Config), {Channel, value(gateway, Config)}, {get_subscribers, Topic}).
