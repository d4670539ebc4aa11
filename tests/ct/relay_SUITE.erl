%% @doc Channels across gateways: what is published at one reaches the subscribers at all.
-module(relay_SUITE).

-export([all/0, init_per_suite/1, end_per_suite/1]).
-export([a_message_published_at_any_gateway_reaches_subscribers_at_all_of_them_once/1,
         a_publisher_s_messages_come_in_order_from_another_gateway/1,
         who_is_told_that_it_is_subscribed_gets_what_is_published_elsewhere_at_once/1,
         who_unsubscribes_gets_nothing_more_from_other_gateways/1,
         a_dead_subscriber_s_topic_is_not_relayed_for_ever/1,
         subscribers_at_all_gateways_are_listed/1,
         the_last_health_message_is_replayed_at_every_gateway/1,
         a_gateway_that_comes_back_relays_and_is_relayed_to_as_before/1,
         a_message_of_many_fragments_is_relayed_whole/1,
         a_secret_that_is_changed_at_one_gateway_holds_at_all/1,
         a_gateway_that_comes_back_learns_all_topics_and_last_messages/1]).

-define(EVENTS, esdb_channel_events).
-define(HEALTH, esdb_channel_health).

all() ->
    [a_message_published_at_any_gateway_reaches_subscribers_at_all_of_them_once,
     a_publisher_s_messages_come_in_order_from_another_gateway,
     who_is_told_that_it_is_subscribed_gets_what_is_published_elsewhere_at_once,
     who_unsubscribes_gets_nothing_more_from_other_gateways,
     a_dead_subscriber_s_topic_is_not_relayed_for_ever,
     subscribers_at_all_gateways_are_listed,
     the_last_health_message_is_replayed_at_every_gateway,
     a_gateway_that_comes_back_relays_and_is_relayed_to_as_before,
     a_message_of_many_fragments_is_relayed_whole,
     a_secret_that_is_changed_at_one_gateway_holds_at_all,
     a_gateway_that_comes_back_learns_all_topics_and_last_messages].

init_per_suite(Config) ->
    World = gater_harness:new(),
    Names = [gater_harness:unique("gater") ++ "@127.0.0.1" || _ <- [1, 2, 3]],
    List = string:join(Names, ","),
    Gateways = [gater_harness:gateway(World, #{name => Name, args => ["--cluster", List]})
                || Name <- Names],
    Beam = gater_harness:node(World, #{modules => [?MODULE]}),
    [meshed(Beam, Gateway, Gateways) || Gateway <- Gateways],
    [{world, World}, {gateways, Gateways}, {beam, Beam} | Config].

end_per_suite(Config) -> gater_harness:stop(proplists:get_value(world, Config)).

%% Waits until a gateway sees all the others.
meshed(Beam, Gateway, Gateways) ->
    gater_harness:until(fun() ->
        case gater_harness:call(Beam, {esdb_gater_cluster, Gateway}, status) of
            {ok, #{leader := Leader, members := Members}} when Leader =/= undefined ->
                length([ok || #{connected := true} <- Members]) =:= length(Gateways);
            {ok, _} ->
                false
        end
    end).

a_message_published_at_any_gateway_reaches_subscribers_at_all_of_them_once(Config) ->
    {Beam, Gateways} = setup(Config),
    Topic = topic(),
    Agents = [subscribed(Beam, Gateway, ?EVENTS, Topic) || Gateway <- Gateways, _ <- [1, 2]],
    Messages = [publish(Beam, Gateway, ?EVENTS, Topic, {from, N})
                || {N, Gateway} <- lists:zip([1, 2, 3], Gateways)],
    [gater_harness:until(fun() -> length(gater_harness:messages(Agent)) >= 3 end)
     || Agent <- Agents],
    %% A second copy would have come before the answers to these calls.
    [_ = gater_harness:call(Beam, {?EVENTS, Gateway}, {get_subscribers, Topic}) || Gateway <- Gateways],
    [begin
         Got = gater_harness:messages(Agent),
         true = lists:sort(Messages) =:= lists:sort(Got)
     end || Agent <- Agents].

a_publisher_s_messages_come_in_order_from_another_gateway(Config) ->
    {Beam, [One, Two | _]} = setup(Config),
    Topic = topic(),
    Agent = subscribed(Beam, Two, ?EVENTS, Topic),
    Sent = [publish(Beam, One, ?EVENTS, Topic, N) || N <- lists:seq(1, 2000)],
    gater_harness:until(fun() -> length(gater_harness:messages(Agent)) =:= 2000 end),
    Sent = gater_harness:messages(Agent).

who_is_told_that_it_is_subscribed_gets_what_is_published_elsewhere_at_once(Config) ->
    {Beam, Gateways = [One | _]} = setup(Config),
    Others = tl(Gateways),
    %% Often, as the word to the other gateways races with the message.
    [begin
         Topic = topic(),
         Agent = subscribed(Beam, Other, ?EVENTS, Topic),
         Message = publish(Beam, One, ?EVENTS, Topic, N),
         gater_harness:until(fun() -> gater_harness:messages(Agent) =:= [Message] end)
     end || N <- lists:seq(1, 50), Other <- Others].

who_unsubscribes_gets_nothing_more_from_other_gateways(Config) ->
    {Beam, [One, Two | _]} = setup(Config),
    Topic = topic(),
    Agent = {_, Pid} = subscribed(Beam, Two, ?EVENTS, Topic),
    Stays = subscribed(Beam, Two, ?EVENTS, Topic),
    ok = gater_harness:call(Beam, {?EVENTS, Two}, {unsubscribe, Topic, Pid}),
    Message = publish(Beam, One, ?EVENTS, Topic, after_it),
    gater_harness:until(fun() -> gater_harness:messages(Stays) =:= [Message] end),
    [] = gater_harness:messages(Agent).

a_dead_subscriber_s_topic_is_not_relayed_for_ever(Config) ->
    {Beam, [One, Two | _]} = setup(Config),
    Topic = topic(),
    Before = subscriptions(Beam, One),
    {_, Pid} = subscribed(Beam, Two, ?EVENTS, Topic),
    true = subscriptions(Beam, One) > Before,
    gater_harness:on(Beam, fun() -> exit(Pid, kill) end),
    gater_harness:until(fun() ->
        [] =:= gater_harness:call(Beam, {?EVENTS, Two}, {get_subscribers, Topic})
    end),
    _ = publish(Beam, One, ?EVENTS, Topic, to_nobody),
    gater_harness:until(fun() -> subscriptions(Beam, One) =:= Before end).

subscribers_at_all_gateways_are_listed(Config) ->
    {Beam, Gateways} = setup(Config),
    Topic = topic(),
    Pids = [Pid || Gateway <- Gateways, {_, Pid} <- [subscribed(Beam, Gateway, ?EVENTS, Topic)]],
    %% One of them twice.
    ok = gater_harness:call(Beam, {?EVENTS, lists:last(Gateways)}, {subscribe, Topic, hd(Pids)}),
    Expected = lists:sort(Pids),
    [Expected = lists:sort(gater_harness:call(Beam, {?EVENTS, Gateway}, {get_subscribers, Topic}))
     || Gateway <- Gateways].

the_last_health_message_is_replayed_at_every_gateway(Config) ->
    {Beam, Gateways = [One | _]} = setup(Config),
    Topic = topic(),
    _ = publish(Beam, One, ?HEALTH, Topic, older),
    Newest = publish(Beam, One, ?HEALTH, Topic, newest),
    %% It reaches the others a moment later.
    [gater_harness:until(fun() ->
        Agent = subscribed(Beam, Gateway, ?HEALTH, Topic),
        _ = gater_harness:call(Beam, {?HEALTH, Gateway}, {get_subscribers, Topic}),
        gater_harness:messages(Agent) =:= [Newest]
    end) || Gateway <- Gateways].

a_gateway_that_comes_back_relays_and_is_relayed_to_as_before(Config) ->
    {Beam, Gateways = [One, _, Three]} = setup(Config),
    World = proplists:get_value(world, Config),
    Topic = topic(),
    AtOne = subscribed(Beam, One, ?EVENTS, Topic),
    Health = publish(Beam, One, ?HEALTH, Topic, before),
    gater_harness:signal(Three, "KILL"),
    _ = gater_harness:await_exit(World, Three),
    Back = gater_harness:restart(World, Three),
    [meshed(Beam, Gateway, Gateways) || Gateway <- [One, Back]],
    AtBack = subscribed(Beam, Back, ?EVENTS, Topic),
    Messages = [publish(Beam, Gateway, ?EVENTS, Topic, Gateway) || Gateway <- [One, Back]],
    [gater_harness:until(fun() ->
        lists:sort(gater_harness:messages(Agent)) =:= lists:sort(Messages)
     end) || Agent <- [AtOne, AtBack]],
    gater_harness:until(fun() ->
        Late = subscribed(Beam, Back, ?HEALTH, Topic),
        _ = gater_harness:call(Beam, {?HEALTH, Back}, {get_subscribers, Topic}),
        gater_harness:messages(Late) =:= [Health]
    end).

a_message_of_many_fragments_is_relayed_whole(Config) ->
    {Beam, [One, Two | _]} = setup(Config),
    Topic = topic(),
    {_, Pid} = subscribed(Beam, Two, ?EVENTS, Topic),
    Digest = gater_harness:on(Beam, fun() ->
        Message = {list_to_atom("a relayed one"), crypto:strong_rand_bytes(3 bsl 20), [#{1.5 => self()}]},
        ok = gen_server:call({?EVENTS, maps:get(node, One)}, {publish, Topic, Message}, 30000),
        erlang:md5(term_to_binary(Message))
    end),
    gater_harness:until(fun() ->
        [Digest] =:= gater_harness:on(Beam, fun() ->
            [erlang:md5(term_to_binary(Message))
             || {channel_message, ?EVENTS, _, Message} <- gater_agent:messages(Pid)]
        end)
    end).

a_secret_that_is_changed_at_one_gateway_holds_at_all(Config) ->
    {Beam, Gateways = [One | _]} = setup(Config),
    Topic = topic(),
    Secret = <<"as said at one">>,
    ok = gater_harness:call(Beam, {esdb_gater_session, One}, {set_secret, Secret}),
    [gater_harness:until(fun() ->
        ok =:= gater_harness:call(Beam, {esdb_channel_alerts, Gateway},
                                  {publish, Topic, signed(#{level => critical}, Secret)})
    end) || Gateway <- Gateways].

%% More of either than another gateway is told at a time.
a_gateway_that_comes_back_learns_all_topics_and_last_messages(Config) ->
    {Beam, Gateways = [One, Two | _]} = setup(Config),
    World = proplists:get_value(world, Config),
    Prefix = topic(),
    Topics = [<<Prefix/binary, N:32>> || N <- lists:seq(1, 10000)],
    {_, Pid} = gater_harness:agent(Beam),
    #{node := Node} = One,
    ok = gater_harness:on(Beam, fun() ->
        [ok = gen_server:call({?EVENTS, Node}, {subscribe, Topic, Pid}) || Topic <- Topics],
        [ok = gen_server:call({?HEALTH, Node}, {publish, Topic, binary:copy(Topic, 20000)})
         || Topic <- lists:sublist(Topics, 40)],
        ok
    end),
    gater_harness:signal(Two, "KILL"),
    _ = gater_harness:await_exit(World, Two),
    Back = gater_harness:restart(World, Two),
    [meshed(Beam, Gateway, Gateways) || Gateway <- [One, Back]],
    gater_harness:until(fun() -> subscriptions(Beam, Back) >= length(Topics) end),
    [gater_harness:until(fun() ->
        Late = subscribed(Beam, Back, ?HEALTH, Topic),
        _ = gater_harness:call(Beam, {?HEALTH, Back}, {get_subscribers, Topic}),
        gater_harness:messages(Late) =:= [{channel_message, ?HEALTH, Topic, binary:copy(Topic, 20000)}]
     end) || Topic <- [hd(Topics), lists:nth(40, Topics)]].

%%% What the cases share

%% As `esdb_pubsub_security:sign/2' does, for small maps of atoms.
signed(Map, Secret) ->
    Stamped = Map#{signed_at => erlang:system_time(second)},
    Bytes = term_to_binary(lists:sort(maps:to_list(Stamped)), [deterministic, {minor_version, 2}]),
    Stamped#{signature => base64:encode(crypto:mac(hmac, sha256, Secret, Bytes))}.

setup(Config) -> {proplists:get_value(beam, Config), proplists:get_value(gateways, Config)}.

topic() -> list_to_binary(gater_harness:unique("topic")).

subscribed(Beam, Gateway, Channel, Topic) ->
    Agent = {_, Pid} = gater_harness:agent(Beam),
    ok = gater_harness:call(Beam, {Channel, Gateway}, {subscribe, Topic, Pid}),
    Agent.

%% What a subscriber gets.
publish(Beam, Gateway, Channel, Topic, Message) ->
    ok = gater_harness:call(Beam, {Channel, Gateway}, {publish, Topic, Message}),
    {channel_message, Channel, Topic, Message}.

subscriptions(Beam, Gateway) ->
    #{subscriptions := Count} = gater_harness:call(Beam, {esdb_gater_session, Gateway}, info),
    Count.
