%% @doc What one user does never shows at another: channels, topics, stores, bad requests.
-module(isolation_SUITE).

-include_lib("stdlib/include/assert.hrl").

-export([all/0, suite/0, init_per_suite/1, end_per_suite/1]).
-export([the_same_topic_on_two_channels_is_two_topics/1, a_double_subscription_delivers_once/1,
         one_unsubscribe_ends_a_double_subscription/1,
         unsubscribing_the_unknown_ten_thousand_times_is_ok/1,
         unregistering_the_unknown_is_ok/1, what_is_no_pid_is_refused_and_nothing_crashes/1,
         what_is_no_store_is_refused/1, a_bad_topic_is_refused_with_its_fault/1,
         a_topic_of_any_bytes_is_its_own/1, a_worker_of_two_stores_is_in_both_until_it_dies/1,
         registering_twice_is_one_entry_at_its_first_place/1,
         a_pid_of_an_earlier_life_is_noproc/1, a_rate_limit_holds_for_its_topic_alone/1,
         a_channel_of_the_users_own_has_its_own_rules/1]).

-define(REGISTRY, esdb_gater_worker_registry).
-define(EVENTS, esdb_channel_events).

suite() -> [{timetrap, {minutes, 3}}].

all() ->
    [the_same_topic_on_two_channels_is_two_topics, a_double_subscription_delivers_once,
     one_unsubscribe_ends_a_double_subscription,
     unsubscribing_the_unknown_ten_thousand_times_is_ok, unregistering_the_unknown_is_ok,
     what_is_no_pid_is_refused_and_nothing_crashes, what_is_no_store_is_refused,
     a_bad_topic_is_refused_with_its_fault, a_topic_of_any_bytes_is_its_own,
     a_worker_of_two_stores_is_in_both_until_it_dies,
     registering_twice_is_one_entry_at_its_first_place, a_pid_of_an_earlier_life_is_noproc,
     a_rate_limit_holds_for_its_topic_alone, a_channel_of_the_users_own_has_its_own_rules].

init_per_suite(Config) ->
    World = gater_harness:new(),
    Gateway = gater_harness:gateway(World, #{
        config => "[channels.esdb_channel_logging]\nmax_rate = 50\n"
                  "[channels.orders]\npriority = \"low\"\nmax_rate = 5\nreplay_last = true\n"}),
    Beam = gater_harness:node(World, #{modules => [?MODULE]}),
    [{world, World}, {gateway, Gateway}, {beam, Beam} | Config].

end_per_suite(Config) ->
    gater_harness:stop(value(world, Config)).

the_same_topic_on_two_channels_is_two_topics(Config) ->
    OnEvents = {_, EventsPid} = agent(Config),
    OnAudit = {_, AuditPid} = agent(Config),
    ok = call(Config, ?EVENTS, {subscribe, <<"shared">>, EventsPid}),
    ok = call(Config, esdb_channel_audit, {subscribe, <<"shared">>, AuditPid}),
    ok = call(Config, ?EVENTS, {publish, <<"shared">>, for_events}),
    ok = call(Config, esdb_channel_audit, {publish, <<"shared">>, for_audit}),
    gater_harness:until(fun() -> gater_harness:messages(OnAudit) =/= []
                                 andalso gater_harness:messages(OnEvents) =/= [] end),
    ?assertEqual([{channel_message, ?EVENTS, <<"shared">>, for_events}],
        gater_harness:messages(OnEvents)),
    ?assertEqual([{channel_message, esdb_channel_audit, <<"shared">>, for_audit}],
        gater_harness:messages(OnAudit)),
    ?assertEqual([EventsPid], call(Config, ?EVENTS, {get_subscribers, <<"shared">>})).

a_double_subscription_delivers_once(Config) ->
    Agent = {_, Pid} = agent(Config),
    [ok = call(Config, ?EVENTS, {subscribe, <<"twice">>, Pid}) || _ <- [1, 2, 3]],
    ?assertEqual([Pid], call(Config, ?EVENTS, {get_subscribers, <<"twice">>})),
    [ok = call(Config, ?EVENTS, {publish, <<"twice">>, N}) || N <- [1, 2]],
    gater_harness:until(fun() -> lists:member(message(<<"twice">>, 2), gater_harness:messages(Agent)) end),
    ?assertEqual([message(<<"twice">>, 1), message(<<"twice">>, 2)], gater_harness:messages(Agent)).

one_unsubscribe_ends_a_double_subscription(Config) ->
    {_, Pid} = agent(Config),
    [ok = call(Config, ?EVENTS, {subscribe, <<"once">>, Pid}) || _ <- [1, 2]],
    ok = call(Config, ?EVENTS, {unsubscribe, <<"once">>, Pid}),
    ?assertEqual([], call(Config, ?EVENTS, {get_subscribers, <<"once">>})).

unsubscribing_the_unknown_ten_thousand_times_is_ok(Config) ->
    #{node := Gater} = Gateway = value(gateway, Config),
    Before = gater_harness:resident_bytes(Gateway),
    ?assertEqual([ok], gater_harness:on(value(beam, Config), fun() ->
        lists:usort([gen_server:call({?EVENTS, Gater},
            {unsubscribe, integer_to_binary(N), self()}) || N <- lists:seq(1, 10000)])
    end)),
    ?assert(gater_harness:resident_bytes(Gateway) - Before < 16 bsl 20).

unregistering_the_unknown_is_ok(Config) ->
    {_, Pid} = agent(Config),
    [ok = call(Config, ?REGISTRY, {unregister, never_seen, Pid}) || _ <- lists:seq(1, 100)],
    ?assertEqual({ok, []}, call(Config, ?REGISTRY, {get_workers, never_seen})).

what_is_no_pid_is_refused_and_nothing_crashes(Config) ->
    Odd = [undefined, 1, "pid", <<"<0.1.0>">>, {a, b}, #{}, make_ref(), [], 1.5, fun lists:map/2],
    [?assertEqual({error, badarg}, call(Config, ?REGISTRY, {Operation, some_store, No}), No)
     || No <- Odd, Operation <- [register, unregister]],
    [?assertMatch({error, _}, call(Config, ?EVENTS, {Operation, <<"t">>, No}), No)
     || No <- Odd, Operation <- [subscribe, unsubscribe]],
    ?assertEqual({ok, []}, call(Config, ?REGISTRY, {get_workers, some_store})).

what_is_no_store_is_refused(Config) ->
    {_, Pid} = agent(Config),
    [?assertEqual({error, badarg}, call(Config, ?REGISTRY, {register, No, Pid}), No)
     || No <- [<<"store">>, "store", 1, {a}, [], Pid]].

a_bad_topic_is_refused_with_its_fault(Config) ->
    {_, Pid} = agent(Config),
    [?assertEqual({error, {bad_topic, Fault}}, call(Config, ?EVENTS, Request))
     || {Topic, Fault} <- [{<<>>, empty}, {binary:copy(<<"x">>, 256), too_long}, {"text", not_binary},
                           {topic, not_binary}, {<<1:3>>, not_binary}],
        Request <- [{subscribe, Topic, Pid}, {unsubscribe, Topic, Pid}, {publish, Topic, 1},
                    {get_subscribers, Topic}]],
    ok = call(Config, ?EVENTS, {subscribe, binary:copy(<<"x">>, 255), Pid}).

a_topic_of_any_bytes_is_its_own(Config) ->
    Agent = {_, Pid} = agent(Config),
    Topics = [<<"a">>, <<"a.">>, <<"A">>, <<"a*">>, <<0>>, <<0, 0>>, <<255, 254>>, <<"ä"/utf8>>],
    [ok = call(Config, ?EVENTS, {subscribe, Topic, Pid}) || Topic <- Topics],
    [ok = call(Config, ?EVENTS, {publish, Topic, Topic}) || Topic <- Topics],
    gater_harness:until(fun() -> length(gater_harness:messages(Agent)) >= length(Topics) end),
    ?assertEqual([message(Topic, Topic) || Topic <- Topics], gater_harness:messages(Agent)).

a_worker_of_two_stores_is_in_both_until_it_dies(Config) ->
    {Beam, Pid} = agent(Config),
    [ok = call(Config, ?REGISTRY, {register, Store, Pid}) || Store <- [left, right]],
    Found = {ok, [{node(Pid), Pid}]},
    [?assertEqual(Found, call(Config, ?REGISTRY, {get_workers, Store})) || Store <- [left, right]],
    ok = call(Config, ?REGISTRY, {unregister, left, Pid}),
    ?assertEqual({ok, []}, call(Config, ?REGISTRY, {get_workers, left})),
    ?assertEqual(Found, call(Config, ?REGISTRY, {get_workers, right})),
    ok = call(Config, ?REGISTRY, {register, left, Pid}),
    true = gater_harness:on(Beam, fun() -> exit(Pid, kill) end),
    [gater_harness:until(fun() -> call(Config, ?REGISTRY, {get_workers, Store}) =:= {ok, []} end)
     || Store <- [left, right]].

registering_twice_is_one_entry_at_its_first_place(Config) ->
    [First, Second] = [Pid || {_, Pid} <- [agent(Config), agent(Config)]],
    [ok = call(Config, ?REGISTRY, {register, doubled, Pid}) || Pid <- [First, Second, First]],
    ?assertEqual({ok, [{node(First), First}, {node(Second), Second}]},
        call(Config, ?REGISTRY, {get_workers, doubled})).

a_pid_of_an_earlier_life_is_noproc(Config) ->
    #{node := Gater} = value(gateway, Config),
    ?assertEqual({error, noproc}, gater_harness:on(value(beam, Config), fun() ->
        %% NEW_PID_EXT: node, id, serial, creation.
        Bytes = erlang:term_to_binary(self()),
        Size = byte_size(Bytes) - 4,
        <<Head:Size/binary, Creation:32>> = Bytes,
        Earlier = binary_to_term(<<Head/binary, (Creation bxor 1):32>>),
        gen_server:call({?REGISTRY, Gater}, {register, ghosts, Earlier})
    end)),
    ?assertEqual({ok, []}, call(Config, ?REGISTRY, {get_workers, ghosts})).

a_rate_limit_holds_for_its_topic_alone(Config) ->
    Logging = esdb_channel_logging,
    Answers = [call(Config, Logging, {publish, <<"busy">>, N}) || N <- lists:seq(1, 51)],
    Flood = gater_harness:on(value(beam, Config), fun() ->
        #{node := Gater} = value(gateway, Config),
        [gen_server:call({Logging, Gater}, {publish, <<"busy">>, N}) || N <- lists:seq(1, 1000)]
    end),
    ?assert(lists:member(ok, Answers)),
    ?assert(lists:member({error, rate_limited}, Flood)),
    ?assertEqual(ok, call(Config, Logging, {publish, <<"quiet">>, 1})),
    %% Same topic, other channel: events have no limit.
    ?assertEqual(ok, call(Config, ?EVENTS, {publish, <<"busy">>, 1})).

a_channel_of_the_users_own_has_its_own_rules(Config) ->
    Answers = gater_harness:on(value(beam, Config), fun() ->
        #{node := Gater} = value(gateway, Config),
        [gen_server:call({orders, Gater}, {publish, <<"t">>, N}) || N <- lists:seq(1, 200)]
    end),
    ?assert(lists:member({error, rate_limited}, Answers)),
    Last = lists:last([N || {N, ok} <- lists:zip(lists:seq(1, 200), Answers)]),
    Agent = {_, Pid} = agent(Config),
    ok = call(Config, orders, {subscribe, <<"t">>, Pid}),
    gater_harness:until(fun() -> gater_harness:messages(Agent) =/= [] end),
    ?assertEqual([{channel_message, orders, <<"t">>, Last}], gater_harness:messages(Agent)).

message(Topic, Message) -> {channel_message, ?EVENTS, Topic, Message}.

agent(Config) -> gater_harness:agent(value(beam, Config)).

value(Key, Config) -> proplists:get_value(Key, Config).

call(Config, Name, Request) ->
    gater_harness:call(value(beam, Config), {Name, value(gateway, Config)}, Request).
