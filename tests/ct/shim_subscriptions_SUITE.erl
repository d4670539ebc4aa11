%% @doc Whose subscription ends when somebody unsubscribes a process: the process's, whoever had
%% subscribed it, whoever asks, and at whichever gateway.
-module(shim_subscriptions_SUITE).

-include_lib("stdlib/include/assert.hrl").

-export([all/0, groups/0, suite/0, init_per_suite/1, end_per_suite/1, init_per_group/2,
         end_per_group/2, init_per_testcase/2,
         end_per_testcase/2]).
-export([whoever_unsubscribes_a_process_elsewhere_ends_its_subscription/1,
         what_is_ended_while_its_shim_is_away_stays_ended/1,
         what_is_ended_without_a_gateway_is_ended_when_there_is_one/1,
         a_process_that_subscribes_again_is_subscribed/1,
         a_process_of_a_shim_can_be_unsubscribed_raw/1,
         a_raw_subscription_can_be_ended_through_the_shim/1,
         a_raw_ending_while_the_shim_is_away_is_heard_of_later/1,
         the_gateway_says_which_channels_replay/1,
         a_worker_unregistered_while_its_shim_is_away_stays_unregistered/1,
         a_worker_that_is_registered_again_comes_back_after_a_loss/1,
         a_publication_is_one_event_everywhere_with_all_recipients/1,
         members_are_the_nodes_at_all_gateways/1]).

-define(EVENTS, esdb_channel_events).
-define(CONTROL, <<"control">>).

suite() -> [{timetrap, {minutes, 2}}].

all() -> [{group, otp25}, {group, otp27}, {group, otp29}].

groups() ->
    Cases =
        [whoever_unsubscribes_a_process_elsewhere_ends_its_subscription,
         what_is_ended_while_its_shim_is_away_stays_ended,
         what_is_ended_without_a_gateway_is_ended_when_there_is_one,
         a_process_that_subscribes_again_is_subscribed, a_process_of_a_shim_can_be_unsubscribed_raw,
         a_raw_subscription_can_be_ended_through_the_shim,
         a_raw_ending_while_the_shim_is_away_is_heard_of_later,
         the_gateway_says_which_channels_replay,
         a_worker_unregistered_while_its_shim_is_away_stays_unregistered,
         a_worker_that_is_registered_again_comes_back_after_a_loss,
         a_publication_is_one_event_everywhere_with_all_recipients,
         members_are_the_nodes_at_all_gateways],
    [{Release, Cases} || Release <- [otp25, otp27, otp29]].

init_per_suite(Config) -> Config.

end_per_suite(_Config) -> ok.

%% Shims `a' and `b' at a gateway each of a cluster of two, and a node without the application.
init_per_group(Group, Config) ->
    case gater_harness:on_release(Group, Config) of
        {skip, _} = Skip ->
            Skip;
        Chosen ->
            Release = #{otp => value(otp, Chosen)},
            World = gater_harness:new(),
            Names = [gater_harness:unique("gater") ++ "@127.0.0.1" || _ <- [1, 2]],
            Self = self(),
            [spawn_link(fun() ->
                 Self ! {Name, gater_harness:gateway(World, #{
                     name => Name, args => ["--cluster", string:join(Names, ",")],
                     config => "[channels.esdb_channel_system]\nreplay_last = true\n"
                               "[channels.esdb_channel_health]\nreplay_last = false\n"})}
             end) || Name <- Names],
            [G1, G2] = [receive {Name, Gateway} -> Gateway end || Name <- Names],
            [A, B] = [gater_shim:node(World, [?MODULE], Release) || _ <- [1, 2]],
            [ok = gater_shim:start(Beam, gater_shim:named([G])) || {Beam, G} <- [{A, G1}, {B, G2}]],
            Plain = gater_harness:node(World, #{modules => [?MODULE]}),
            [{world, World}, {gateways, [G1, G2]}, {a, A}, {b, B}, {plain, Plain} | Chosen]
    end.

end_per_group(_Group, Config) ->
    gater_harness:stop(value(world, Config)).

init_per_testcase(Case, Config) ->
    [{topic, atom_to_binary(Case)} | Config].

end_per_testcase(_Case, Config) ->
    [come_back(value(Shim, Config), Config) || Shim <- [a, b]],
    ok.

%%% Processes of a node without the application

whoever_unsubscribes_a_process_elsewhere_ends_its_subscription(Config) ->
    [begin
         {_, Pid} = Subscriber = kept_by_a(Config),
         published(a, Config, Subscriber, [first]),
         ok = unsubscribe(By, Config, Pid),
         unheard(Config, Subscriber),
         lose_gateways(a, Config),
         come_back(value(a, Config), Config),
         unheard(Config, Subscriber)
     end || By <- [a, b, raw]].

what_is_ended_while_its_shim_is_away_stays_ended(Config) ->
    [begin
         {_, Pid} = Subscriber = kept_by_a(Config),
         lose_gateways(a, Config),
         ok = unsubscribe(By, Config, Pid),
         come_back(value(a, Config), Config),
         unheard(Config, Subscriber),
         ?assertEqual(false, on(value(a, Config), fun() ->
             ets:member(esdb_gater_subscribers, {?EVENTS, value(topic, Config), Pid})
         end))
     end || By <- [b, raw]].

what_is_ended_without_a_gateway_is_ended_when_there_is_one(Config) ->
    {_, Pid} = Subscriber = kept_by_a(Config),
    lose_gateways(b, Config),
    ok = unsubscribe(b, Config, Pid),
    published(a, Config, Subscriber, [meanwhile]),
    come_back(value(b, Config), Config),
    until(fun() -> at_gateways(Config) =:= [] end),
    unheard(Config, Subscriber).

a_process_that_subscribes_again_is_subscribed(Config) ->
    {_, Pid} = Subscriber = kept_by_a(Config),
    ok = unsubscribe(b, Config, Pid),
    ok = subscribe(a, Config, Pid),
    published(b, Config, Subscriber, [again]),
    Before = subscriptions(Config),
    %% Also when it is made again after a loss: the ending was before.
    lose_gateways(a, Config),
    come_back(value(a, Config), Config),
    %% Until the shim has taken it back at the gateway that it used before, both deliver.
    until(fun() -> at_gateways(Config) =:= [Pid] andalso subscriptions(Config) =:= Before end),
    published(b, Config, Subscriber, [again, again]).

%%% Processes of a node with the application

a_process_of_a_shim_can_be_unsubscribed_raw(Config) ->
    [Leaves, Stays] = [gater_harness:agent(value(a, Config)) || _ <- [1, 2]],
    [ok = subscribe(a, Config, Pid) || {_, Pid} <- [Leaves, Stays]],
    ok = unsubscribe(raw, Config, pid(Leaves)),
    published(b, Config, Stays, [m]),
    ?assertEqual([], payloads(Leaves)),
    ok = subscribe(a, Config, pid(Leaves)),
    published(b, Config, Leaves, [m]),
    ?assertEqual([m, m], payloads(Stays)).

a_raw_subscription_can_be_ended_through_the_shim(Config) ->
    {Beam, Pid} = Subscriber = gater_harness:agent(value(a, Config)),
    [begin
         ok = gater_harness:call(Beam, {?EVENTS, Gateway}, {subscribe, value(topic, Config), Pid}),
         ok = unsubscribe(a, Config, Pid),
         unheard(Config, Subscriber)
     end || Gateway <- value(gateways, Config)].

a_raw_ending_while_the_shim_is_away_is_heard_of_later(Config) ->
    [Leaves, Stays] = [gater_harness:agent(value(a, Config)) || _ <- [1, 2]],
    [ok = subscribe(a, Config, Pid) || {_, Pid} <- [Leaves, Stays]],
    lose_gateways(a, Config),
    ok = unsubscribe(raw, Config, pid(Leaves)),
    come_back(value(a, Config), Config),
    published(b, Config, Stays, [m]),
    ?assertEqual([], payloads(Leaves)).

%%% Replaying

the_gateway_says_which_channels_replay(Config) ->
    Topic = value(topic, Config),
    [begin
         ok = publish(b, Config, Channel, Topic, last),
         [First, Second] = Subscribers = [gater_harness:agent(value(a, Config)) || _ <- [1, 2]],
         [ok = on(value(a, Config), fun() -> esdb_channel_server:subscribe(Channel, Topic, Pid) end)
          || {_, Pid} <- Subscribers],
         ok = publish(b, Config, Channel, Topic, new),
         [until(fun() -> payloads(S) =:= Expected end) || S <- [First, Second]],
         {_, Third} = Late = gater_harness:agent(value(a, Config)),
         ok = on(value(a, Config), fun() -> esdb_channel_server:subscribe(Channel, Topic, Third) end),
         ok = publish(b, Config, Channel, Topic, newer),
         until(fun() -> payloads(Late) =:= ExpectedLate end)
     end || {Channel, Expected, ExpectedLate}
                <- [{esdb_channel_system, [last, new], [new, newer]},
                    {esdb_channel_health, [new], [newer]}]].

%%% Workers

a_worker_unregistered_while_its_shim_is_away_stays_unregistered(Config) ->
    Store = ?FUNCTION_NAME,
    [begin
         [Worker] = gater_shim:workers(value(a, Config), Store, 1),
         lose_gateways(a, Config),
         ok = unregister(By, Config, Store, Worker),
         come_back(value(a, Config), Config),
         [?assertEqual({ok, []}, workers_at(Config, Gateway, Store))
          || Gateway <- value(gateways, Config)],
         until(fun() -> {ok, []} =:= on(value(a, Config), fun() ->
             esdb_gater_api:get_workers(Store)
         end) end)
     end || By <- [b, raw]].

a_worker_that_is_registered_again_comes_back_after_a_loss(Config) ->
    Store = ?FUNCTION_NAME,
    [Worker] = gater_shim:workers(value(a, Config), Store, 1),
    ok = unregister(b, Config, Store, Worker),
    ok = on(value(a, Config), fun() -> esdb_gater_api:register_worker(Store, Worker) end),
    lose_gateways(a, Config),
    come_back(value(a, Config), Config),
    until(fun() -> {ok, [{node(Worker), Worker}]} =:= on(value(b, Config), fun() ->
        esdb_gater_api:get_workers(Store)
    end) end).

unregister(raw, Config, Store, Worker) ->
    [_, Second] = value(gateways, Config),
    gater_harness:call(value(plain, Config), {esdb_gater_worker_registry, Second},
                       {unregister, Store, Worker});
unregister(Shim, Config, Store, Worker) ->
    on(value(Shim, Config), fun() -> esdb_gater_api:unregister_worker(Store, Worker) end).

workers_at(Config, Gateway, Store) ->
    gater_harness:call(value(plain, Config), {esdb_gater_worker_registry, Gateway},
                       {get_workers, Store}).

%%% Events of several gateways

a_publication_is_one_event_everywhere_with_all_recipients(Shared) ->
    Config = fresh(Shared),
    Topic = value(topic, Config),
    %% Three processes of a, one of b, and one that is subscribed at the second gateway itself.
    [ok = subscribe(a, Config, pid(gater_harness:agent(value(a, Config)))) || _ <- [1, 2, 3]],
    ok = subscribe(b, Config, pid(gater_harness:agent(value(b, Config)))),
    {_, Plain} = gater_harness:agent(value(plain, Config)),
    ok = gater_harness:call(value(plain, Config), {?EVENTS, lists:last(value(gateways, Config))},
                            {subscribe, Topic, Plain}),
    Listeners = [listener(value(Shim, Config), [esdb_gater, channel, broadcast]) || Shim <- [a, b]],
    %% The other gateway hears of a listener a moment later.
    until(fun() ->
        ok = publish(a, Config, ?EVENTS, <<"probe">>, m),
        lists:all(fun(L) -> heard_of(<<"probe">>, L) =/= [] end, Listeners)
    end),
    [ok = publish(Shim, Config, ?EVENTS, Topic, m) || Shim <- [a, b, b]],
    [until(fun() -> length(heard_of(Topic, L)) >= 3 end) || L <- Listeners],
    ok = publish(a, Config, ?EVENTS, <<"last">>, m),
    [until(fun() -> heard_of(<<"last">>, L) =/= [] end) || L <- Listeners],
    [?assertEqual(lists:duplicate(3, #{recipient_count => 5}), heard_of(Topic, L)) || L <- Listeners],
    %% One of a's is gone.
    on(value(a, Config), fun() ->
        [One | _] = gen_server:call(?EVENTS, {get_subscribers, Topic}),
        ok = esdb_channel_server:unsubscribe(?EVENTS, Topic, One)
    end),
    ok = publish(b, Config, ?EVENTS, Topic, m),
    [until(fun() -> lists:nthtail(3, heard_of(Topic, L)) =:= [#{recipient_count => 4}] end)
     || L <- Listeners],
    [unlisten(L) || L <- Listeners].

members_are_the_nodes_at_all_gateways(Shared) ->
    Config = fresh(Shared),
    World = value(world, Config),
    Listeners = [listener(value(Shim, Config), [esdb_gater, cluster, node, up]) || Shim <- [a, b]],
    Told = fun(Listener, Node) ->
        [{Members, Gateways} || {_, #{node := N, member_count := Members, gateway_count := Gateways}}
                                    <- events(Listener), N =:= Node]
    end,
    Up = fun(Gateway) ->
        Beam = #{node := Node} = gater_harness:node(World, #{modules => [?MODULE]}),
        #{node := To} = Gateway,
        pong = on(Beam, fun() -> net_adm:ping(To) end),
        {Beam, Node}
    end,
    Counts = [begin
                  {Beam, Node} = Up(Gateway),
                  until(fun() -> Told(Listener, Node) =/= [] end),
                  {Beam, hd(Told(Listener, Node))}
              end || {Gateway, Listener} <- lists:zip(value(gateways, Config), Listeners)],
    %% What the second gateway counts includes the node at the first, and nobody counts gateways.
    [{_, {First, 2}}, {_, {Second, 2}}] = Counts,
    ?assertEqual(First + 1, Second),
    [gater_harness:kill_node(World, Beam) || {Beam, _} <- Counts],
    [unlisten(L) || L <- Listeners].

%% Shims that have lost no gateway: `a' at the first and `b' at the second.
fresh(Config) ->
    Shims = [begin
                 Beam = gater_shim:node(value(world, Config), [?MODULE], #{otp => value(otp, Config)}),
                 ok = gater_shim:start(Beam, gater_shim:named([Gateway])),
                 {Name, Beam}
             end || {Name, Gateway} <- lists:zip([a, b], value(gateways, Config))],
    Shims ++ Config.

listener(Beam, Event) ->
    {_, Pid} = Agent = gater_harness:agent(Beam),
    ok = on(Beam, fun() ->
        esdb_gater_telemetry:attach(Pid, fun(E, Measurements, Meta, To) ->
                                             E =:= Event andalso (To ! {event, Measurements, Meta})
                                         end, Pid)
    end),
    Agent.

unlisten({Beam, Pid}) -> on(Beam, fun() -> ok = esdb_gater_telemetry:detach(Pid) end).

events(Listener) -> [{M, Meta} || {event, M, Meta} <- gater_harness:messages(Listener)].

heard_of(Topic, Listener) ->
    [Measurements || {Measurements, #{topic := T}} <- events(Listener), T =:= Topic].

%%% Helpers

value(Key, Config) -> proplists:get_value(Key, Config).

on(Beam, Fun) -> gater_harness:on(Beam, Fun).

until(Condition) -> gater_harness:until(Condition).

pid({_, Pid}) -> Pid.

%% A process of the node without the application that A has subscribed.
kept_by_a(Config) ->
    {_, Pid} = Subscriber = gater_harness:agent(value(plain, Config)),
    ok = subscribe(a, Config, Pid),
    Subscriber.

subscribe(Shim, Config, Pid) ->
    Topic = value(topic, Config),
    on(value(Shim, Config), fun() -> esdb_channel_server:subscribe(?EVENTS, Topic, Pid) end).

unsubscribe(raw, Config, Pid) ->
    [_, Second] = value(gateways, Config),
    gater_harness:call(value(plain, Config), {?EVENTS, Second},
                       {unsubscribe, value(topic, Config), Pid});
unsubscribe(Shim, Config, Pid) ->
    Topic = value(topic, Config),
    on(value(Shim, Config), fun() -> esdb_channel_server:unsubscribe(?EVENTS, Topic, Pid) end).

publish(Shim, Config, Channel, Topic, Message) ->
    on(value(Shim, Config), fun() -> esdb_channel_server:publish(Channel, Topic, Message) end).

%% Publishes the last of these messages, and waits for all of them.
published(Shim, Config, Subscriber, Messages) ->
    ok = publish(Shim, Config, ?EVENTS, value(topic, Config), lists:last(Messages)),
    until(fun() -> payloads(Subscriber) =:= Messages end).

%% What is published at either gateway does not arrive, though something published after it on
%% the same way does.
unheard(Config, {Beam, Pid} = Subscriber) ->
    Before = payloads(Subscriber),
    [begin
         Control = make_ref(),
         ok = gater_harness:call(Beam, {?EVENTS, Gateway}, {subscribe, ?CONTROL, Pid}),
         ok = gater_harness:call(Beam, {?EVENTS, Gateway}, {publish, value(topic, Config), unheard_of}),
         ok = gater_harness:call(Beam, {?EVENTS, Gateway}, {publish, ?CONTROL, Control}),
         until(fun() -> lists:member(Control, controls(Subscriber)) end),
         ok = gater_harness:call(Beam, {?EVENTS, Gateway}, {unsubscribe, ?CONTROL, Pid})
     end || Gateway <- value(gateways, Config)],
    ?assertEqual(Before, payloads(Subscriber)).

payloads(Agent) ->
    [Payload || {channel_message, _, Topic, Payload} <- gater_harness:messages(Agent),
                Topic =/= ?CONTROL].

controls(Agent) ->
    [Payload || {channel_message, _, ?CONTROL, Payload} <- gater_harness:messages(Agent)].

at_gateways(Config) ->
    lists:usort(lists:append(
        [gater_harness:call(value(plain, Config), {?EVENTS, Gateway},
                            {get_subscribers, value(topic, Config)})
         || Gateway <- value(gateways, Config)])).

%% The number of subscriptions at all gateways.
subscriptions(Config) ->
    lists:sum([begin
                   #{subscriptions := Count} =
                       gater_harness:call(value(plain, Config), {esdb_gater_session, Gateway}, info),
                   Count
               end || Gateway <- value(gateways, Config)]).

%% It takes no gateway for what it is, until it comes back.
lose_gateways(Shim, Config) ->
    Nodes = [Node || #{node := Node} <- value(gateways, Config)],
    on(value(Shim, Config), fun() ->
        [true = erlang:set_cookie(Node, another) || Node <- Nodes],
        [erlang:disconnect_node(Node) || Node <- Nodes]
    end),
    until(fun() -> on(value(Shim, Config), fun esdb_gater_link:gateway/0) =:= none end).

come_back(Beam, Config) ->
    Nodes = [Node || #{node := Node} <- value(gateways, Config)],
    on(Beam, fun() -> [true = erlang:set_cookie(Node, erlang:get_cookie()) || Node <- Nodes] end),
    until(fun() -> on(Beam, fun esdb_gater_link:gateway/0) =/= none end).
