%% @doc Which gateway the shim uses, and what its users notice when that one is lost.
-module(shim_failover_SUITE).

-include_lib("stdlib/include/assert.hrl").

-export([all/0, groups/0, init_per_group/2, end_per_group/2, suite/0, init_per_testcase/2, end_per_testcase/2]).
-export([a_killed_gateway_is_replaced_within_a_second_under_load/1,
         a_silent_gateway_is_replaced_in_the_configured_time_under_load/1,
         the_other_gateways_are_learnt_from_the_first/1,
         gateways_killed_one_after_the_other_fail_no_execute/1,
         a_gateway_on_the_own_host_is_preferred/1,
         a_gateway_on_the_own_host_that_is_learnt_later_is_gone_over_to/1,
         a_gateway_on_the_own_host_that_is_back_is_gone_over_to/1,
         a_gateway_that_was_put_out_is_the_last_resort/1,
         workers_of_connected_nodes_are_never_missed/1,
         a_worker_without_a_shim_is_registered_at_one_gateway_after_the_other/1,
         what_is_missing_is_registered_again_and_what_is_not_changes_nothing/1]).

-define(EVENTS, esdb_channel_events).
-define(TOPIC, <<"topic">>).

suite() -> [{timetrap, {minutes, 2}}].

all() -> [{group, otp25}, {group, otp27}, {group, otp29}].

groups() ->
    Cases =
        [a_killed_gateway_is_replaced_within_a_second_under_load,
         a_silent_gateway_is_replaced_in_the_configured_time_under_load,
         the_other_gateways_are_learnt_from_the_first,
         gateways_killed_one_after_the_other_fail_no_execute,
         a_gateway_on_the_own_host_is_preferred,
         a_gateway_on_the_own_host_that_is_learnt_later_is_gone_over_to,
         a_gateway_on_the_own_host_that_is_back_is_gone_over_to,
         a_gateway_that_was_put_out_is_the_last_resort,
         workers_of_connected_nodes_are_never_missed,
         a_worker_without_a_shim_is_registered_at_one_gateway_after_the_other,
         what_is_missing_is_registered_again_and_what_is_not_changes_nothing],
    [{Release, Cases} || Release <- [otp25, otp27, otp29]].

init_per_group(Group, Config) -> gater_harness:on_release(Group, Config).

end_per_group(_Group, _Config) -> ok.

init_per_testcase(_Case, Config) ->
    [{world, gater_harness:new()} | Config].

end_per_testcase(_Case, Config) ->
    gater_harness:stop(value(world, Config)).

%%% Losing a gateway

a_killed_gateway_is_replaced_within_a_second_under_load(Config) ->
    [First, Second] = Gateways = [gater_harness:gateway(value(world, Config)) || _ <- [1, 2]],
    Beam = named(Config, Gateways),
    ?assertEqual(node_of(First), in_use(Beam)),
    Workers = gater_shim:workers(Beam, store, 20),
    Subscribers = [subscriber(Beam, integer_to_binary(I)) || I <- lists:seq(1, 20)],
    Load = on(Beam, fun() -> gater_shim:load(8) end),
    gater_harness:signal(First, "KILL"),
    Killed = gater_harness:stopwatch(),
    _ = gater_harness:await_exit(value(world, Config), First),
    %% Waits for a gateway by itself.
    ok = published(Beam, <<"1">>, first),
    _ = gater_harness:within(Killed, 1000),
    ?assertEqual(node_of(Second), in_use(Beam)),
    [ok = published(Beam, integer_to_binary(I), again) || I <- lists:seq(1, 20)],
    [until(fun() -> lists:member(again, payloads(S)) end) || S <- Subscribers],
    ?assertEqual(lists:sort(Workers), registered_at(Beam, Second, store)),
    ?assertEqual([], failures(Beam, Load)).

a_silent_gateway_is_replaced_in_the_configured_time_under_load(Config) ->
    [First, Second] = Gateways = [gater_harness:gateway(value(world, Config)) || _ <- [1, 2]],
    Beam = gater_shim:node(value(world, Config), [?MODULE], #{otp => value(otp, Config)}),
    ok = gater_shim:start(Beam, [{gateway_timeout_ms, 1000} | gater_shim:named(Gateways)]),
    ?assertEqual(node_of(First), in_use(Beam)),
    Workers = gater_shim:workers(Beam, store, 5),
    Subscriber = subscriber(Beam, ?TOPIC),
    Load = on(Beam, fun() -> gater_shim:load(4) end),
    %% Fills the socket of whoever does not read, so that senders are suspended.
    on(Beam, fun() ->
        [spawn(fun Fill() ->
             _ = esdb_channel_server:publish(?EVENTS, <<"bulk">>, <<0:8000000>>),
             Fill()
         end) || _ <- lists:seq(1, 4)],
        ok
    end),
    gater_harness:signal(First, "STOP"),
    Stopped = gater_harness:stopwatch(),
    until(fun() -> on(Beam, fun() -> esdb_gater_link:gateway() end) =:= {ok, node_of(Second)} end),
    %% The configured second, and one to find and fill the other.
    _ = gater_harness:within(Stopped, 2000),
    ok = published(Beam, ?TOPIC, second),
    until(fun() -> payloads(Subscriber) =:= [second] end),
    ?assertEqual(lists:sort(Workers), registered_at(Beam, Second, store)),
    gater_harness:signal(First, "CONT"),
    ?assertEqual([], failures(Beam, Load)).

the_other_gateways_are_learnt_from_the_first(Config) ->
    [First | Others] = cluster(Config, 3),
    Beam = named(Config, [First]),
    [Worker] = gater_shim:workers(Beam, store, 1),
    Subscriber = subscriber(Beam, ?TOPIC),
    until(fun() -> length(known(Beam)) =:= 3 end),
    gater_harness:signal(First, "KILL"),
    _ = gater_harness:await_exit(value(world, Config), First),
    ok = published(Beam, ?TOPIC, others),
    ?assert(lists:member(in_use(Beam), [node_of(G) || G <- Others])),
    until(fun() -> payloads(Subscriber) =/= [] end),
    ?assertEqual([others], payloads(Subscriber)),
    ?assertEqual({ok, [{node(Worker), Worker}]},
                 on(Beam, fun() -> esdb_gater_api:get_workers(store) end)).

gateways_killed_one_after_the_other_fail_no_execute(Config) ->
    World = value(world, Config),
    Gateways = cluster(Config, 3),
    Beams = [named(Config, Gateways) || _ <- [1, 2]],
    Workers = lists:append([gater_shim:workers(Beam, store, 10) || Beam <- Beams]),
    Subscribers = [subscriber(Beam, ?TOPIC) || Beam <- Beams],
    Loads = [{Beam, on(Beam, fun() -> gater_shim:load(4) end)} || Beam <- Beams],
    [begin
         gater_harness:signal(Gateway, "KILL"),
         _ = gater_harness:await_exit(World, Gateway),
         Told = {killed, node_of(Gateway)},
         [until(fun() ->
              ok =:= publish(Beam, ?TOPIC, Told) andalso
                  lists:all(fun(S) -> lists:member(Told, payloads(S)) end, Subscribers)
          end) || Beam <- Beams],
         _ = gater_harness:restart(World, Gateway)
     end || Gateway <- Gateways],
    [until(fun() ->
         {ok, Found} = on(Beam, fun() -> esdb_gater_api:get_workers(store) end),
         lists:sort([W || {_, W} <- Found]) =:= lists:sort(Workers)
     end) || Beam <- Beams],
    [?assertEqual([], failures(Beam, Load)) || {Beam, Load} <- Loads].

%%% Preferring one

a_gateway_on_the_own_host_is_preferred(Config) ->
    Elsewhere = elsewhere(Config),
    Here = gater_harness:gateway(value(world, Config)),
    Beam = named(Config, [Elsewhere, Here]),
    ?assertEqual(node_of(Here), in_use(Beam)).

a_gateway_on_the_own_host_that_is_learnt_later_is_gone_over_to(Config) ->
    Elsewhere = elsewhere(Config),
    Here = gater_harness:gateway(value(world, Config)),
    Beam = named(Config, [Elsewhere]),
    ?assertEqual(node_of(Elsewhere), in_use(Beam)),
    Workers = gater_shim:workers(Beam, store, 3),
    Subscriber = subscriber(Beam, ?TOPIC),
    tell_members(Beam, [Elsewhere, Here]),
    until(fun() -> on(Beam, fun() -> esdb_gater_link:gateway() end) =:= {ok, node_of(Here)} end),
    ok = published(Beam, ?TOPIC, here),
    until(fun() -> payloads(Subscriber) =:= [here] end),
    ?assertEqual(lists:sort(Workers), registered_at(Beam, Here, store)),
    %% It has taken leave of the other, which still lives.
    Plain = gater_harness:node(value(world, Config)),
    until(fun() ->
        gater_harness:call(Plain, {?EVENTS, Elsewhere}, {get_subscribers, ?TOPIC}) =:= []
    end).

a_gateway_on_the_own_host_that_is_back_is_gone_over_to(Config) ->
    World = value(world, Config),
    Elsewhere = elsewhere(Config),
    Here = gater_harness:gateway(World),
    Beam = named(Config, [Elsewhere, Here]),
    ?assertEqual(node_of(Here), in_use(Beam)),
    gater_harness:signal(Here, "KILL"),
    _ = gater_harness:await_exit(World, Here),
    until(fun() -> in_use(Beam) =:= node_of(Elsewhere) end),
    _ = gater_harness:restart(World, Here),
    tell_members(Beam, [Elsewhere, Here]),
    %% As it looks by itself now and then.
    until(fun() ->
        on(Beam, fun() -> esdb_gater_worker_registry ! reassert, ok end),
        in_use(Beam) =:= node_of(Here)
    end).

a_gateway_that_was_put_out_is_the_last_resort(Config) ->
    World = value(world, Config),
    [Out, First, Second] = Gateways = [gater_harness:gateway(World) || _ <- [1, 2, 3]],
    Beam = named(Config, Gateways),
    ?assertEqual(node_of(Out), in_use(Beam)),
    tell_members(Beam, [First, Second]),
    gater_harness:signal(Out, "KILL"),
    _ = gater_harness:await_exit(World, Out),
    until(fun() -> in_use(Beam) =:= node_of(First) end),
    _ = gater_harness:restart(World, Out),
    tell_members(Beam, [First, Second]),
    gater_harness:signal(First, "KILL"),
    _ = gater_harness:await_exit(World, First),
    until(fun() -> in_use(Beam) =:= node_of(Second) end),
    tell_members(Beam, [First, Second]),
    gater_harness:signal(Second, "KILL"),
    _ = gater_harness:await_exit(World, Second),
    until(fun() -> in_use(Beam) =:= node_of(Out) end).

%%% What is registered

workers_of_connected_nodes_are_never_missed(Config) ->
    World = value(world, Config),
    %% They keep no registry together: the second knows nobody at first.
    [First, Second] = Gateways = [gater_harness:gateway(World) || _ <- [1, 2]],
    [A, B] = [named(Config, Gateways) || _ <- [1, 2]],
    true = on(A, fun() -> net_kernel:connect_node(maps:get(node, B)) end),
    [Worker] = gater_shim:workers(B, store, 1),
    until(fun() -> workers(A) =:= [Worker] end),
    %% Looks all the time.
    Watcher = on(A, fun() ->
        spawn(fun Look() ->
            receive {stop, From} -> From ! {looked, nothing_else}
            after 0 ->
                case esdb_gater_api:get_workers(store) of
                    {ok, [{_, Worker}]} -> Look();
                    Other -> receive {stop, From} -> From ! {looked, Other} end
                end
            end
        end)
    end),
    %% Its own link is the last to say what it has.
    on(B, fun() -> ok = sys:suspend(esdb_gater_worker_registry) end),
    gater_harness:signal(First, "KILL"),
    _ = gater_harness:await_exit(World, First),
    until(fun() -> in_use(A) =:= node_of(Second) end),
    on(B, fun() -> ok = sys:resume(esdb_gater_worker_registry) end),
    until(fun() -> registered_at(A, Second, store) =:= [Worker] end),
    ?assertEqual(nothing_else, on(A, fun() ->
        Watcher ! {stop, self()},
        receive {looked, What} -> What end
    end)).

a_worker_without_a_shim_is_registered_at_one_gateway_after_the_other(Config) ->
    World = value(world, Config),
    %% They keep no registry together.
    [First, Second, Third] = Gateways = [gater_harness:gateway(World) || _ <- [1, 2, 3]],
    Beam = named(Config, Gateways),
    {_, Worker} = gater_harness:agent(gater_harness:node(World)),
    on(Beam, fun() -> ok = esdb_gater_api:register_worker(store, Worker) end),
    [begin
         gater_harness:signal(Lost, "KILL"),
         _ = gater_harness:await_exit(World, Lost),
         until(fun() -> in_use(Beam) =:= node_of(Next) end),
         until(fun() -> registered_at(Beam, Next, store) =:= [Worker] end)
     end || {Lost, Next} <- [{First, Second}, {Second, Third}]],
    ?assertEqual([{store, Worker}], on(Beam, fun esdb_gater_desired:active/0)).

what_is_missing_is_registered_again_and_what_is_not_changes_nothing(Config) ->
    Gateway = gater_harness:gateway(value(world, Config)),
    Beam = named(Config, [Gateway]),
    [Worker] = gater_shim:workers(Beam, store, 1),
    #{rev := Rev} = on(Beam, fun() ->
        esdb_gater_worker_registry ! reassert,
        esdb_gater_link:status()
    end),
    %% What the link has been told is forgotten, as if it had been lost on the way.
    on(Beam, fun() ->
        true = esdb_gater_workers:remove(store, Worker),
        esdb_gater_worker_registry ! reassert,
        ok = esdb_gater_api:register_worker(other, self())
    end),
    %% The registration that it repeated was none; only the other one counts.
    ?assertMatch(#{rev := Next} when Next =< Rev + 2, on(Beam, fun esdb_gater_link:status/0)),
    ?assertEqual([Worker], registered_at(Beam, Gateway, store)).

%%% Helpers

value(Key, Config) -> proplists:get_value(Key, Config).

on(Beam, Fun) -> gater_harness:on(Beam, Fun).

until(Condition) -> gater_harness:until(Condition).

node_of(#{node := Node}) -> Node.

named(Config, Gateways) ->
    Beam = gater_shim:node(value(world, Config), [?MODULE], #{otp => value(otp, Config)}),
    ok = gater_shim:start(Beam, gater_shim:named(Gateways)),
    Beam.

%% Gateways that keep one registry.
cluster(Config, N) ->
    Names = [gater_harness:unique("gater") ++ "@127.0.0.1" || _ <- lists:seq(1, N)],
    Arguments = ["--cluster", lists:flatten(lists:join(",", Names))],
    [gater_harness:gateway(value(world, Config), #{name => Name, args => Arguments})
     || Name <- Names].

%% A gateway of another host, as far as names tell.
elsewhere(Config) ->
    gater_harness:gateway(value(world, Config),
                          #{name => gater_harness:unique("gater") ++ "@127.0.0.2",
                            args => ["--listen", "127.0.0.2:0"]}).

%% As a gateway does that belongs to a cluster.
tell_members(Beam, Gateways) ->
    Members = [node_of(G) || G <- Gateways],
    on(Beam, fun() -> esdb_gater_worker_registry ! {esdb_gater_gateways, Members}, ok end).

in_use(Beam) ->
    case on(Beam, fun() -> esdb_gater_link:await_gateway(5000) end) of
        {ok, Node} -> Node;
        {error, no_gateway} -> none
    end.

known(Beam) ->
    maps:get(gateways, on(Beam, fun esdb_gater_link:status/0)).

workers(Beam) ->
    {ok, Found} = on(Beam, fun() -> esdb_gater_api:get_workers(store) end),
    [Worker || {_, Worker} <- Found].

registered_at(Beam, Gateway, Store) ->
    {ok, Found} = gater_harness:call(Beam, {esdb_gater_worker_registry, Gateway},
                                     {get_workers, Store}),
    lists:sort([Worker || {_, Worker} <- Found]).

subscriber(Beam, Topic) ->
    {_, Pid} = Agent = gater_harness:agent(Beam),
    ok = on(Beam, fun() -> esdb_channel_server:subscribe(?EVENTS, Topic, Pid) end),
    Agent.

publish(Beam, Topic, Message) ->
    on(Beam, fun() -> esdb_channel_server:publish(?EVENTS, Topic, Message) end).

%% The gateway may be lost while it publishes; then it is the caller's to repeat, who is told.
published(Beam, Topic, Message) ->
    Confirmed = fun() ->
        esdb_channel_server:publish(?EVENTS, Topic, Message, #{confirm => true})
    end,
    case on(Beam, Confirmed) of
        {error, no_gateway} -> published(Beam, Topic, Message);
        Answer -> Answer
    end.

payloads(Agent) -> [Payload || {channel_message, _, _, Payload} <- gater_harness:messages(Agent)].

%% What went wrong for the callers of `load/1'; each of them has done something.
failures(Beam, Load) ->
    lists:append(on(Beam, fun() ->
        [begin
             Pid ! {report, self()},
             receive {Pid, N, Failures} when N > 0 -> Failures end
         end || Pid <- Load]
    end)).
