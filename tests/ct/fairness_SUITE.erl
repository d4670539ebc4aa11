%% @doc Whatever one peer asks of a gateway, the others are served.
%%
%% The gateway has one thread for its connections, so that one that is never left serves nobody else.
-module(fairness_SUITE).

-export([all/0, suite/0, init_per_suite/1, end_per_suite/1, init_per_testcase/2, end_per_testcase/2]).
-export([others_are_served_while_one_lists_stores/1,
         others_are_served_while_one_lists_local_workers/1,
         others_are_served_while_one_lists_subscribers/1,
         others_are_served_while_one_publishes_to_many/1,
         others_are_served_while_some_send_maps_that_take_long_to_verify/1,
         others_are_served_while_a_node_with_many_subscribers_comes_and_goes/1]).

-define(REGISTRY, esdb_gater_worker_registry).
-define(EVENTS, esdb_channel_events).
%% One that waits for an attack to end waits for far longer.
-define(CALL_MS, 5000).
-define(CALLS, 50).

suite() -> [{timetrap, {minutes, 4}}].

all() ->
    [others_are_served_while_one_lists_stores,
     others_are_served_while_one_lists_local_workers,
     others_are_served_while_one_lists_subscribers,
     others_are_served_while_one_publishes_to_many,
     others_are_served_while_some_send_maps_that_take_long_to_verify,
     others_are_served_while_a_node_with_many_subscribers_comes_and_goes].

init_per_suite(Config) ->
    World = gater_harness:new(),
    [{world, World}, {beam, gater_harness:node(World)} | Config].

end_per_suite(Config) ->
    gater_harness:stop(value(world, Config)).

init_per_testcase(_Case, Config) ->
    Gateway = gater_harness:gateway(value(world, Config), #{env => [{"TOKIO_WORKER_THREADS", "1"}, {"ESDB_GATER_STORE_NAMES", "1000000"}]}),
    [{gateway, Gateway} | Config].

end_per_testcase(_Case, Config) ->
    Gateway = value(gateway, Config),
    ok = gater_harness:signal(Gateway, "KILL"),
    _ = gater_harness:await_exit(value(world, Config), Gateway),
    ok.

others_are_served_while_one_lists_stores(Config) -> served(list_stores, 60000, Config).

others_are_served_while_one_lists_local_workers(Config) -> served(get_local_workers, 60000, Config).

others_are_served_while_one_lists_subscribers(Config) -> served(get_subscribers, 100000, Config).

others_are_served_while_one_publishes_to_many(Config) -> served(publish, 100000, Config).

others_are_served_while_some_send_maps_that_take_long_to_verify(Config) ->
    served(signed_maps, 143000, Config).

others_are_served_while_a_node_with_many_subscribers_comes_and_goes(Config) ->
    served(subscriptions, 100000, Config).

served(Kind, Size, Config) ->
    Gateway = #{port := Port} = value(gateway, Config),
    Beam = value(beam, Config),
    {_, Pid} = gater_harness:agent(Beam),
    Target = {Port, gater_harness:cookie(value(world, Config))},
    Attack = gater_attacks:start(Kind, Target, gater_harness:unique("attack"), Size),
    Call = fun(To, Request) -> gater_harness:call(Beam, {To, Gateway}, Request, ?CALL_MS) end,
    Serve = fun() ->
        ok = Call(?EVENTS, {publish, <<"other">>, 1}),
        ok = Call(?REGISTRY, {register, other, Pid}),
        {ok, [_]} = Call(?REGISTRY, {get_workers, other}),
        ok = Call(?REGISTRY, {unregister, other, Pid})
    end,
    [Serve() || _ <- lists:seq(1, ?CALLS)],
    %% The attack was there all the time: it is not held up by being refused.
    gater_harness:until(fun() -> Serve(), gater_attacks:rounds(Attack) >= 1 end, 120000),
    ok = gater_attacks:stop(Attack),
    true = gater_harness:alive(Gateway).

value(Key, Config) -> proplists:get_value(Key, Config).
