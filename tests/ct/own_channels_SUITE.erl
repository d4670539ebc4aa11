%% @doc Channels with callbacks of the user's own, which a BEAM serves and every node uses.
-module(own_channels_SUITE).

-include_lib("stdlib/include/assert.hrl").

-export([all/0, groups/0, suite/0, init_per_suite/1, end_per_suite/1, init_per_group/2,
         end_per_group/2, init_per_testcase/2,
         end_per_testcase/2]).
-export([a_message_reaches_subscribers_on_every_node/1, a_refused_message_is_not_published/1,
         a_refused_subscriber_is_not_subscribed/1, subscribers_leave/1,
         callbacks_that_fail_refuse_and_the_channel_goes_on/1, a_rate_of_its_own_holds/1,
         signatures_are_required_where_the_module_says_so/1,
         two_hosts_of_a_channel_deliver_once_and_in_order/1,
         a_channel_that_ends_is_unknown_afterwards/1, channels_are_no_stores/1,
         other_messages_reach_the_callbacks/1]).

-define(T, <<"topic">>).

suite() -> [{timetrap, {minutes, 2}}].

all() -> [{group, otp25}, {group, otp27}, {group, otp29}].

groups() ->
    Cases =
        [a_message_reaches_subscribers_on_every_node, a_refused_message_is_not_published,
         a_refused_subscriber_is_not_subscribed, subscribers_leave,
         callbacks_that_fail_refuse_and_the_channel_goes_on, a_rate_of_its_own_holds,
         signatures_are_required_where_the_module_says_so,
         two_hosts_of_a_channel_deliver_once_and_in_order,
         a_channel_that_ends_is_unknown_afterwards, channels_are_no_stores,
         other_messages_reach_the_callbacks],
    [{Release, Cases} || Release <- [otp25, otp27, otp29]].

init_per_suite(Config) -> Config.

end_per_suite(_Config) -> ok.

%% Only `a' and `c' have the module: what others are answered is decided there.
init_per_group(Group, Config) ->
    case gater_harness:on_release(Group, Config) of
        {skip, _} = Skip ->
            Skip;
        Chosen ->
            Release = #{otp => value(otp, Chosen)},
            World = gater_harness:new(),
            Gateway = gater_harness:gateway(World, #{env => [{"ESDB_GATER_SECRET", "s"}]}),
            With = [?MODULE, gater_channel],
            [A, B, C] = Beams = [gater_shim:node(World, Modules, Release) || Modules <- [With, [?MODULE], With]],
            Env = [{security, [{hmac_secret, <<"s">>}]} | gater_shim:named([Gateway])],
            [ok = gater_shim:start(Beam, Env) || Beam <- Beams],
            [{world, World}, {a, A}, {b, B}, {c, C} | Chosen]
    end.

end_per_group(_Group, Config) ->
    gater_harness:stop(value(world, Config)).

%% Each case has a channel of its name, served by `a', which reports to an agent there.
init_per_testcase(Case, Config) ->
    {_, Report} = Agent = gater_harness:agent(value(a, Config)),
    Host = host(value(a, Config), gater_channel, #{name => Case, report => Report}),
    [known(Beam, Case, 1) || Beam <- beams(Config)],
    [{channel, Case}, {host, Host}, {report, Agent} | Config].

end_per_testcase(_Case, Config) ->
    stop(value(a, Config), value(host, Config)).

a_message_reaches_subscribers_on_every_node(Config) ->
    Agents = [subscriber(Beam, value(channel, Config), ?T) || Beam <- beams(Config)],
    [begin
         ok = publish(Beam, Config, ?T, {from, Beam}),
         [until(fun() -> received(Agent) =:= [{from, Beam}] end) || Agent <- Agents],
         [flush(Agent) || Agent <- Agents]
     end || Beam <- beams(Config)],
    Pids = lists:sort([Pid || {_, Pid} <- Agents]),
    [?assertEqual(Pids, on(Beam, fun() ->
         esdb_channel_server:get_subscribers(value(channel, Config), ?T)
     end)) || Beam <- beams(Config)],
    Node = maps:get(node, value(a, Config)),
    ?assertMatch([{published, Node, ?T, _, 0}, {published, Node, ?T, _, 1},
                  {published, Node, ?T, _, 2}],
                 [M || {published, _, _, _, _} = M <- reports(Config)]).

a_refused_message_is_not_published(Config) ->
    Agents = [subscriber(Beam, value(channel, Config), ?T) || Beam <- beams(Config)],
    [begin
         ?assertEqual({error, not_this_one}, publish(Beam, Config, ?T, refused)),
         ok = publish(Beam, Config, ?T, taken)
     end || Beam <- beams(Config)],
    [begin
         until(fun() -> length(received(Agent)) >= 3 end),
         ?assertEqual([taken, taken, taken], received(Agent))
     end || Agent <- Agents],
    ?assertEqual({error, {bad_topic, empty}}, publish(value(b, Config), Config, <<>>, taken)).

a_refused_subscriber_is_not_subscribed(Config) ->
    Channel = value(channel, Config),
    Agents = [gater_harness:agent(Beam) || Beam <- beams(Config)],
    [?assertEqual({error, closed}, on(Beam, fun() ->
         esdb_channel_server:subscribe(Channel, <<"closed">>, Pid)
     end)) || {Beam, Pid} <- Agents],
    Open = subscriber(value(b, Config), Channel, <<"closed2">>),
    [ok = publish(Beam, Config, Topic, m) || Beam <- beams(Config),
                                             Topic <- [<<"closed">>, <<"closed2">>]],
    until(fun() -> received(Open) =:= [m, m, m] end),
    [?assertEqual([], received(Agent)) || Agent <- Agents],
    ?assertEqual([], on(value(b, Config), fun() ->
        esdb_channel_server:get_subscribers(Channel, <<"closed">>)
    end)),
    ?assertEqual({error, {bad_topic, not_binary}}, on(value(b, Config), fun() ->
        esdb_channel_server:subscribe(Channel, not_binary, self())
    end)).

subscribers_leave(Config) ->
    Channel = value(channel, Config),
    {B, Leaves} = Agent = subscriber(value(b, Config), Channel, ?T),
    {_, Held} = subscriber(value(b, Config), Channel, <<"held">>),
    {_, Dies} = subscriber(value(c, Config), Channel, ?T),
    %% Twice is once.
    ok = on(B, fun() -> esdb_channel_server:subscribe(Channel, ?T, Leaves) end),
    ok = publish(B, Config, ?T, before),
    until(fun() -> received(Agent) =:= [before] end),
    ok = on(value(c, Config), fun() -> esdb_channel_server:unsubscribe(Channel, ?T, Leaves) end),
    ok = on(B, fun() -> esdb_channel_server:unsubscribe(Channel, ?T, Leaves) end),
    ?assertEqual({error, held}, on(B, fun() ->
        esdb_channel_server:unsubscribe(Channel, <<"held">>, Held)
    end)),
    ok = on(value(c, Config), fun() -> exit(Dies, kill), ok end),
    Subscribers = fun(Topic) ->
                      on(B, fun() -> esdb_channel_server:get_subscribers(Channel, Topic) end)
                  end,
    until(fun() -> Subscribers(?T) =:= [] end),
    ?assertEqual([Held], Subscribers(<<"held">>)),
    ok = publish(B, Config, ?T, afterwards),
    ?assertEqual([before], received(Agent)),
    Left = [Pid || {unsubscribed, _, ?T, Pid} <- reports(Config)],
    ?assertEqual(lists:sort([Leaves, Dies]), lists:sort(Left)).

callbacks_that_fail_refuse_and_the_channel_goes_on(Config) ->
    B = value(b, Config),
    Agent = subscriber(B, value(channel, Config), ?T),
    ok = publish(B, Config, ?T, first),
    ?assertEqual({error, {callback_failed, handle_publish}}, publish(B, Config, ?T, crash)),
    ?assertEqual({error, {callback_failed, handle_publish}}, publish(B, Config, ?T, nonsense)),
    ok = publish(B, Config, ?T, second),
    until(fun() -> received(Agent) =:= [first, second] end),
    ?assertEqual([0, 1], [N || {published, _, _, _, N} <- reports(Config)]).

a_rate_of_its_own_holds(Config) ->
    Answers = on(value(b, Config), fun() ->
        [esdb_channel_server:publish(value(channel, Config), ?T, I) || I <- lists:seq(1, 1000)]
    end),
    Refused = length([1 || {error, rate_limited} <- Answers]),
    ?assert(Refused > 0),
    ?assert(length([1 || ok <- Answers]) >= 50).

signatures_are_required_where_the_module_says_so(Config) ->
    Host = host(value(a, Config), esdb_channel_alerts, #{name => own_alerts}),
    [known(Beam, own_alerts, 1) || Beam <- beams(Config)],
    Agent = subscriber(value(c, Config), own_alerts, ?T),
    on(value(b, Config), fun() ->
        {error, signature_required} = esdb_channel_server:publish(own_alerts, ?T, #{a => 1}),
        {error, signature_required} = esdb_channel_server:publish(own_alerts, ?T, no_map),
        Wrong = esdb_pubsub_security:sign(#{a => 1}, <<"another">>),
        {error, invalid_signature} = esdb_channel_server:publish(own_alerts, ?T, Wrong),
        ok = esdb_channel_server:publish(own_alerts, ?T, esdb_pubsub_security:sign(#{a => 2}))
    end),
    until(fun() -> length(received(Agent)) =:= 1 end),
    ?assertMatch([#{a := 2, signature := _}], received(Agent)),
    stop(value(a, Config), Host).

two_hosts_of_a_channel_deliver_once_and_in_order(Config) ->
    Channel = value(channel, Config),
    C = value(c, Config),
    {_, Report} = gater_harness:agent(C),
    Second = host(C, gater_channel, #{name => Channel, report => Report}),
    [known(Beam, Channel, 2) || Beam <- beams(Config)],
    Agents = [subscriber(Beam, Channel, ?T) || Beam <- beams(Config)],
    [ok = publish(Beam, Config, ?T, {Name, I})
     || I <- lists:seq(1, 10), {Name, Beam} <- lists:zip([a, b, c], beams(Config))],
    [begin
         until(fun() -> length(received(Agent)) >= 30 end),
         Received = received(Agent),
         ?assertEqual(30, length(Received)),
         [?assertEqual(lists:seq(1, 10), [I || {From, I} <- Received, From =:= Name])
          || Name <- [a, b, c]]
     end || Agent <- Agents],
    %% Each node's publications are judged at home.
    Judged = on(C, fun() -> gater_agent:messages(Report) end),
    ?assertEqual([{c, I} || I <- lists:seq(1, 10)], [M || {published, _, _, M, _} <- Judged]),
    stop(C, Second).

a_channel_that_ends_is_unknown_afterwards(Config) ->
    Host = host(value(a, Config), esdb_channel_events, #{name => short_lived}),
    [known(Beam, short_lived, 1) || Beam <- beams(Config)],
    Agent = subscriber(value(b, Config), short_lived, ?T),
    ok = on(value(c, Config), fun() -> esdb_channel_server:publish(short_lived, ?T, 1) end),
    until(fun() -> received(Agent) =:= [1] end),
    stop(value(a, Config), Host),
    [begin
         known(Beam, short_lived, 0),
         ?assertEqual({error, unknown_channel},
                      on(Beam, fun() -> esdb_channel_server:publish(short_lived, ?T, 2) end))
     end || Beam <- beams(Config)].

channels_are_no_stores(Config) ->
    Channel = value(channel, Config),
    on(value(b, Config), fun() ->
        1 = length(esdb_channel_host:hosts(Channel)),
        {ok, #{total_workers := 0}} = esdb_gater_api:health(),
        {ok, None} = esdb_gater_worker_registry:get_all_workers(),
        0 = map_size(None)
    end).

other_messages_reach_the_callbacks(Config) ->
    on(value(a, Config), fun() ->
        value(host, Config) ! hello,
        ok = gen_server:cast(value(host, Config), {hello, again})
    end),
    until(fun() -> [M || {told, M} <- reports(Config)] =:= [hello, {hello, again}] end).

%%% Helpers

value(Key, Config) -> proplists:get_value(Key, Config).

on(Beam, Fun) -> gater_harness:on(Beam, Fun).

until(Condition) -> gater_harness:until(Condition).

beams(Config) -> [value(Name, Config) || Name <- [a, b, c]].

%% `on/2' runs in a process that ends, and the channel is linked to who starts it.
host(Beam, Module, Options) ->
    on(Beam, fun() ->
        {ok, Pid} = esdb_channel_server:start_link(Module, Options),
        true = unlink(Pid),
        Pid
    end).

stop(Beam, Host) -> on(Beam, fun() -> gen_server:stop(Host) end).

known(Beam, Channel, N) ->
    until(fun() -> on(Beam, fun() -> length(esdb_channel_host:hosts(Channel)) end) =:= N end).

subscriber(Beam, Channel, Topic) ->
    {_, Pid} = Agent = gater_harness:agent(Beam),
    ok = on(Beam, fun() -> esdb_channel_server:subscribe(Channel, Topic, Pid) end),
    Agent.

publish(Beam, Config, Topic, Message) ->
    on(Beam, fun() -> esdb_channel_server:publish(value(channel, Config), Topic, Message) end).

received(Agent) -> [M || {channel_message, _, _, M} <- gater_harness:messages(Agent)].

flush({Beam, Pid}) -> on(Beam, fun() -> gater_agent:flush(Pid) end).

reports(Config) -> gater_harness:messages(value(report, Config)).
