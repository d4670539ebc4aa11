%% @doc What the shim does when something is lost: the embedded program, a named gateway, one of
%% its own processes, the application itself.
-module(shim_losses_SUITE).

-include_lib("stdlib/include/assert.hrl").

-export([all/0, groups/0, init_per_group/2, end_per_group/2, suite/0, init_per_testcase/2, end_per_testcase/2]).
-export([an_embedded_gateway_serves_without_configuration/1,
         a_killed_embedded_program_is_back_within_two_seconds/1,
         stopping_leaves_nothing_behind/1, a_killed_node_leaves_no_program/1,
         the_embedded_program_gets_the_configuration/1, a_secret_of_any_bytes_reaches_the_program/1,
         without_the_program_calls_say_no_gateway/1, a_bad_value_stops_the_start/1,
         a_restarted_gateway_gets_everything_again/1, the_next_gateway_takes_over/1,
         a_gateway_that_was_silent_is_left_for_good/1,
         what_was_given_up_without_a_gateway_is_given_up_there_too/1,
         without_a_gateway_calls_end_in_time/1, a_gateway_that_comes_later_is_used/1,
         a_worker_that_died_meanwhile_is_not_registered_again/1,
         a_host_that_answers_nothing_holds_up_nobody/1,
         every_process_of_the_shim_may_crash/1]).

-define(EVENTS, esdb_channel_events).
-define(TOPIC, <<"topic">>).

suite() -> [{timetrap, {minutes, 2}}].

all() -> [{group, otp25}, {group, otp27}, {group, otp29}].

groups() ->
    Cases =
        [an_embedded_gateway_serves_without_configuration,
         a_killed_embedded_program_is_back_within_two_seconds,
         stopping_leaves_nothing_behind, a_killed_node_leaves_no_program,
         the_embedded_program_gets_the_configuration, a_secret_of_any_bytes_reaches_the_program,
         without_the_program_calls_say_no_gateway, a_bad_value_stops_the_start,
         a_restarted_gateway_gets_everything_again, the_next_gateway_takes_over,
         a_gateway_that_was_silent_is_left_for_good,
         what_was_given_up_without_a_gateway_is_given_up_there_too,
         without_a_gateway_calls_end_in_time, a_gateway_that_comes_later_is_used,
         a_worker_that_died_meanwhile_is_not_registered_again,
         a_host_that_answers_nothing_holds_up_nobody, every_process_of_the_shim_may_crash],
    [{Release, Cases} || Release <- [otp25, otp27, otp29]].

init_per_group(Group, Config) -> gater_harness:on_release(Group, Config).

end_per_group(_Group, _Config) -> ok.

init_per_testcase(_Case, Config) ->
    [{world, gater_harness:new()} | Config].

end_per_testcase(_Case, Config) ->
    gater_harness:stop(value(world, Config)).

%%% The embedded program

an_embedded_gateway_serves_without_configuration(Config) ->
    Beam = embedded(Config, []),
    works(Beam),
    on(Beam, fun() ->
        {ok, Gateway} = esdb_gater_link:gateway(),
        true = lists:member(Gateway, nodes(hidden)),
        false = lists:member(Gateway, nodes())
    end).

a_killed_embedded_program_is_back_within_two_seconds(Config) ->
    Beam = embedded(Config, []),
    Workers = gater_shim:workers(Beam, store, 50),
    Subscribers = [subscriber(Beam, integer_to_binary(I)) || I <- lists:seq(1, 50)],
    %% Under load: publishers and callers that never stop, whatever the answer.
    on(Beam, fun() ->
        [spawn(fun Load() ->
             _ = esdb_channel_server:publish(?EVENTS, <<"load">>, <<0:8000>>),
             _ = esdb_gater_api:execute(store, fun(W) -> gen_server:call(W, {echo, 1}) end),
             Load()
         end) || _ <- lists:seq(1, 8)]
    end),
    Program = program(Beam),
    gater_harness:signal(#{os_pid => Program}, "KILL"),
    Killed = gater_harness:stopwatch(),
    until(fun() -> case program(Beam) of none -> false; Other -> Other =/= Program end end),
    %% Waits for the gateway by itself; all else is restored before.
    ok = publish(Beam, <<"1">>, first),
    _ = gater_harness:within(Killed, 2000),
    {ok, Back} = on(Beam, fun() -> esdb_gater_api:get_workers(store) end),
    ?assertEqual([{node(W), W} || W <- Workers], Back),
    {ok, Gateway} = on(Beam, fun() -> esdb_gater_link:gateway() end),
    ?assertMatch({ok, [_ | _]}, on(Beam, fun() ->
        gen_server:call({esdb_gater_worker_registry, Gateway}, {get_workers, store})
    end)),
    [ok = publish(Beam, integer_to_binary(I), again) || I <- lists:seq(1, 50)],
    [until(fun() -> lists:member(again, payloads(S)) end) || S <- Subscribers].

stopping_leaves_nothing_behind(Config) ->
    Beam = gater_shim:node(value(world, Config), [?MODULE], #{otp => value(otp, Config)}),
    Before = on(Beam, fun state_of_node/0),
    Temporary = filename:join(gater_harness:dir(value(world, Config)), "temporary"),
    ok = file:make_dir(Temporary),
    on(Beam, fun() -> os:putenv("TMPDIR", Temporary) end),
    [begin
         ok = gater_shim:start(Beam, gater_shim:embedded(#{otp => value(otp, Config)})),
         works(Beam),
         Program = program(Beam),
         {ok, []} = file:list_dir(Temporary),
         on(Beam, fun() -> ok = application:stop(erl_esdb_gater) end),
         ?assertNot(gater_harness:alive(#{os_pid => Program})),
         ?assertEqual(Before, on(Beam, fun state_of_node/0)),
         ?assertEqual({ok, []}, file:list_dir(Temporary))
     end || _ <- [1, 2]].

state_of_node() ->
    {ok, Names} = erl_epmd:names({127, 0, 0, 1}),
    #{registered => lists:sort([N || N <- registered(), lists:prefix("esdb", atom_to_list(N))
                                                     orelse lists:prefix("erl_esdb", atom_to_list(N))]),
      tables => lists:sort([T || T <- ets:all(), is_atom(T), lists:prefix("esdb", atom_to_list(T))]),
      ports => [P || P <- erlang:ports(), {name, "/" ++ _ = N} <- [erlang:port_info(P, name)],
                     string:find(N, "esdb-gater") =/= nomatch],
      hidden => nodes(hidden),
      epmd => [N || {"esdb_gater_" ++ Rest = N, _} <- Names,
                    lists:prefix(os:getpid(), Rest)]}.

a_killed_node_leaves_no_program(Config) ->
    Beam = gater_shim:node(value(world, Config), [?MODULE], #{otp => value(otp, Config)}),
    Temporary = filename:join(gater_harness:dir(value(world, Config)), "temporary"),
    ok = file:make_dir(Temporary),
    on(Beam, fun() -> os:putenv("TMPDIR", Temporary) end),
    ok = gater_shim:start(Beam, gater_shim:embedded(#{otp => value(otp, Config)})),
    works(Beam),
    {ok, []} = file:list_dir(Temporary),
    Program = program(Beam),
    gater_harness:kill_node(value(world, Config), Beam),
    until(fun() -> not gater_harness:alive(#{os_pid => Program}) end),
    ?assertEqual({ok, []}, file:list_dir(Temporary)).

the_embedded_program_gets_the_configuration(Config) ->
    Beam = embedded(Config, [{channels, [{own, [{priority, low}, {max_rate, 7}, {hmac, required}]},
                                         {esdb_channel_events, [{hmac, required}]}]},
                             {security, [{hmac_secret, "s3cret"}, {message_ttl_seconds, 60}]}]),
    works_signed(Beam),
    on(Beam, fun() ->
        #{own := #{priority := low, max_rate := 7, hmac := required},
          esdb_channel_events := #{priority := high, hmac := required}}
            = esdb_gater_link:gateway_channels(),
        {error, signature_required} = esdb_channel_server:publish(own, ?TOPIC, m),
        Signed = esdb_pubsub_security:sign(#{a => 1}, "s3cret"),
        ok = esdb_channel_server:publish(own, ?TOPIC, Signed),
        Old = sign_at(erlang:system_time(second) - 61, <<"s3cret">>),
        {error, message_expired} = esdb_channel_server:publish(own, ?TOPIC, Old)
    end).

sign_at(Seconds, Secret) ->
    Message = #{a => 1, signed_at => Seconds},
    Bytes = term_to_binary(lists:sort(maps:to_list(Message)), [deterministic, {minor_version, 2}]),
    Message#{signature => base64:encode(crypto:mac(hmac, sha256, Secret, Bytes))}.

a_secret_of_any_bytes_reaches_the_program(Config) ->
    Beam = embedded(Config, [{security, [{hmac_secret, <<0, 255, 10, "x">>}]}]),
    works_signed(Beam),
    %% Also the one that takes its place.
    %% However it ends.
    [begin
         Program = program(Beam),
         gater_harness:signal(#{os_pid => Program}, Signal),
         until(fun() -> case program(Beam) of none -> false; Other -> Other =/= Program end end),
         works_signed(Beam)
     end || Signal <- ["KILL", "TERM"]].

without_the_program_calls_say_no_gateway(Config) ->
    Beam = gater_shim:node(value(world, Config), [?MODULE], #{otp => value(otp, Config)}),
    ok = gater_shim:start(Beam, [{program, "/nowhere/esdb-gater"}]),
    ?assertEqual({error, no_gateway},
                 on(Beam, fun() -> esdb_channel_server:publish(?EVENTS, ?TOPIC, m) end)),
    ?assertEqual(ok, on(Beam, fun() -> application:stop(erl_esdb_gater) end)).

a_bad_value_stops_the_start(Config) ->
    Beam = gater_shim:node(value(world, Config), [?MODULE], #{otp => value(otp, Config)}),
    {error, {erl_esdb_gater, Reason}} = gater_shim:start(Beam, [{retry, [{max_attempts, none}]}]),
    ?assertNotEqual(nomatch, string:find(io_lib:format("~tp", [Reason]), "retry.max_attempts")).

%%% Named gateways

a_restarted_gateway_gets_everything_again(Config) ->
    World = value(world, Config),
    %% Without its data it knows nothing of before.
    Gateway = gater_harness:gateway(World),
    Beam = named(Config, [Gateway]),
    [Worker] = gater_shim:workers(Beam, store, 1),
    Subscriber = subscriber(Beam, ?TOPIC),
    gater_harness:signal(Gateway, "KILL"),
    _ = gater_harness:await_exit(World, Gateway),
    until(fun() -> on(Beam, fun() -> esdb_gater_link:gateway() end) =:= none end),
    %% Look-ups and operations go on meanwhile.
    ?assertMatch({ok, {Worker, 1}}, on(Beam, fun() ->
        esdb_gater_api:execute(store, fun(W) -> gen_server:call(W, {echo, 1}) end)
    end)),
    ok = file:del_dir_r(filename:join(gater_harness:dir(World), atom_to_list(maps:get(node, Gateway)))),
    Again = gater_harness:restart(World, Gateway),
    ok = publish(Beam, ?TOPIC, again),
    until(fun() -> payloads(Subscriber) =:= [again] end),
    ?assertEqual({ok, [{node(Worker), Worker}]},
                 gater_harness:call(Beam, {esdb_gater_worker_registry, Again}, {get_workers, store})).

the_next_gateway_takes_over(Config) ->
    World = value(world, Config),
    [First, Second] = Gateways = [gater_harness:gateway(World) || _ <- [1, 2]],
    Beam = named(Config, Gateways),
    [Worker] = gater_shim:workers(Beam, store, 1),
    Subscriber = subscriber(Beam, ?TOPIC),
    ?assertEqual({ok, maps:get(node, First)}, on(Beam, fun() -> esdb_gater_link:gateway() end)),
    gater_harness:signal(First, "KILL"),
    _ = gater_harness:await_exit(World, First),
    until(fun() -> on(Beam, fun() -> esdb_gater_link:gateway() end)
                       =:= {ok, maps:get(node, Second)} end),
    ok = publish(Beam, ?TOPIC, over_there),
    until(fun() -> payloads(Subscriber) =:= [over_there] end),
    ?assertEqual({ok, [{node(Worker), Worker}]},
                 gater_harness:call(Beam, {esdb_gater_worker_registry, Second}, {get_workers, store})),
    [Other] = gater_shim:workers(Beam, store, 1),
    ?assertEqual({ok, [{node(Worker), Worker}, {node(Other), Other}]},
                 on(Beam, fun() -> esdb_gater_api:get_workers(store) end)).

a_gateway_that_was_silent_is_left_for_good(Config) ->
    World = value(world, Config),
    [First, Second] = Gateways = [gater_harness:gateway(World) || _ <- [1, 2]],
    Beam = named(Config, Gateways),
    Subscriber = subscriber(Beam, ?TOPIC),
    gater_harness:signal(First, "STOP"),
    until(fun() -> on(Beam, fun() -> esdb_gater_link:gateway() end)
                       =:= {ok, maps:get(node, Second)} end),
    ok = publish(Beam, ?TOPIC, second),
    gater_harness:signal(First, "CONT"),
    Plain = gater_harness:node(World),
    At = fun(Gateway) ->
             gater_harness:call(Plain, {?EVENTS, Gateway}, {get_subscribers, ?TOPIC})
         end,
    until(fun() -> At(First) =:= [] end),
    ?assertMatch([_], At(Second)),
    ok = gater_harness:call(Plain, {?EVENTS, First}, {publish, ?TOPIC, first}),
    ok = publish(Beam, ?TOPIC, last),
    until(fun() -> lists:member(last, payloads(Subscriber)) end),
    ?assertEqual([second, last], payloads(Subscriber)).

what_was_given_up_without_a_gateway_is_given_up_there_too(Config) ->
    World = value(world, Config),
    Gateway = #{node := Node} = gater_harness:gateway(World),
    Beam = named(Config, [Gateway]),
    {_, Pid} = Subscriber = subscriber(Beam, ?TOPIC),
    gater_harness:signal(Gateway, "STOP"),
    on(Beam, fun() -> true = erlang:disconnect_node(Node), ok end),
    until(fun() -> on(Beam, fun() -> esdb_gater_link:gateway() end) =/= {ok, Node} end),
    on(Beam, fun() -> ok = esdb_channel_server:unsubscribe(?EVENTS, ?TOPIC, Pid) end),
    gater_harness:signal(Gateway, "CONT"),
    Plain = gater_harness:node(World),
    until(fun() ->
              gater_harness:call(Plain, {?EVENTS, Gateway}, {get_subscribers, ?TOPIC}) =:= []
          end),
    ?assertEqual([], payloads(Subscriber)).

without_a_gateway_calls_end_in_time(Config) ->
    Beam = gater_shim:node(value(world, Config), [?MODULE], #{otp => value(otp, Config)}),
    ok = gater_shim:start(Beam, [{gateways, ['nobody@127.0.0.1']}]),
    on(Beam, fun() ->
        {error, no_gateway} = esdb_gater_api:register_worker(store, self()),
        {error, no_gateway} = esdb_channel_server:subscribe(?EVENTS, ?TOPIC, self()),
        [] = esdb_gater_api:get_local_workers(store)
    end).

a_gateway_that_comes_later_is_used(Config) ->
    World = value(world, Config),
    Name = gater_harness:unique("late") ++ "@127.0.0.1",
    Beam = gater_shim:node(World, [?MODULE], #{otp => value(otp, Config)}),
    ok = gater_shim:start(Beam, [{gateways, [list_to_atom(Name)]}]),
    until(fun() ->
              %% It has tried and failed.
              on(Beam, fun() -> #{phase := Phase} = esdb_gater_link:status(), Phase =:= idle end)
          end),
    _ = gater_harness:gateway(World, #{name => Name}),
    until(fun() -> on(Beam, fun() -> esdb_gater_link:gateway() end) =:= {ok, list_to_atom(Name)} end),
    works(Beam).

a_worker_that_died_meanwhile_is_not_registered_again(Config) ->
    World = value(world, Config),
    Gateway = gater_harness:gateway(World),
    Beam = named(Config, [Gateway]),
    [Dies, Stays] = gater_shim:workers(Beam, store, 2),
    gater_harness:signal(Gateway, "KILL"),
    _ = gater_harness:await_exit(World, Gateway),
    on(Beam, fun() -> exit(Dies, kill) end),
    %% The mirror knows at once.
    until(fun() -> on(Beam, fun() -> esdb_gater_api:get_local_workers(store) end) =:= [Stays] end),
    Again = gater_harness:restart(World, Gateway),
    ok = publish(Beam, ?TOPIC, m),
    until(fun() ->
              gater_harness:call(Beam, {esdb_gater_worker_registry, Again}, {get_workers, store})
                  =:= {ok, [{node(Stays), Stays}]}
          end).

%%% A node of subscribers

a_host_that_answers_nothing_holds_up_nobody(Config) ->
    World = value(world, Config),
    Gateway = gater_harness:gateway(World),
    %% So long an attempt to connect takes.
    Beam = gater_shim:node(World, [?MODULE], #{otp => value(otp, Config), args => ["-kernel", "net_setuptime", "60"]}),
    ok = gater_shim:start(Beam, gater_shim:named([Gateway])),
    Here = subscriber(Beam, ?TOPIC),
    Plain = #{node := Node} = gater_harness:node(World, #{modules => [?MODULE]}),
    Elsewhere = [Pid || {_, Pid} <- [gater_harness:agent(Plain) || _ <- lists:seq(1, 5)]],
    on(Beam, fun() ->
        [ok = esdb_channel_server:subscribe(?EVENTS, <<"elsewhere">>, Pid) || Pid <- Elsewhere]
    end),
    Connecting = fun() -> on(Beam, fun() -> ets:member(sys_dist, Node) end) end,
    gater_harness:signal(Plain, "STOP"),
    try
        on(Beam, fun() -> true = erlang:disconnect_node(Node), ok end),
        until(fun() -> not Connecting() end),
        until(Connecting),
        ok = publish(Beam, ?TOPIC, meanwhile),
        gater_harness:until(fun() -> payloads(Here) =:= [meanwhile] end, 10000),
        ?assert(Connecting()),
        %% Its supervisor, and one that connects for all.
        ?assertMatch([_, _], linked(Beam, ?EVENTS))
    after
        gater_harness:signal(Plain, "CONT")
    end,
    until(fun() -> on(Beam, fun() -> lists:member(Node, nodes(hidden)) end) end),
    %% They are watched as before.
    until(fun() -> lists:sort(monitored(Beam, ?EVENTS, Node)) =:= lists:sort(Elsewhere) end),
    ?assertMatch([_], linked(Beam, ?EVENTS)),
    on(Plain, fun() -> [exit(Pid, kill) || Pid <- Elsewhere], ok end),
    Subscribed = fun(Pid) ->
        on(Beam, fun() -> ets:member(esdb_gater_subscribers, {?EVENTS, <<"elsewhere">>, Pid}) end)
    end,
    until(fun() -> not lists:any(Subscribed, Elsewhere) end).

linked(Beam, Name) ->
    {links, Links} = on(Beam, fun() -> process_info(whereis(Name), links) end),
    Links.

%% The processes of a node that one of Beam monitors.
monitored(Beam, Name, Node) ->
    {monitors, Monitors} = on(Beam, fun() -> process_info(whereis(Name), monitors) end),
    [Pid || {process, Pid} <- Monitors, is_pid(Pid), node(Pid) =:= Node].

%%% Its own processes

every_process_of_the_shim_may_crash(Config) ->
    Beam = embedded(Config, []),
    [Worker] = gater_shim:workers(Beam, store, 1),
    Subscriber = subscriber(Beam, ?TOPIC),
    [begin
         Killed = on(Beam, fun() -> Pid = whereis(Name), exit(Pid, kill), Pid end),
         until(fun() -> on(Beam, fun() ->
                   is_pid(whereis(Name)) andalso whereis(Name) =/= Killed
               end) end),
         until(fun() ->
                   on(Beam, fun() -> esdb_channel_server:publish(?EVENTS, ?TOPIC, Name) end) =:= ok
                       andalso lists:member(Name, payloads(Subscriber))
               end),
         ?assertEqual({ok, [{node(Worker), Worker}]},
                      on(Beam, fun() -> esdb_gater_api:get_workers(store) end))
     end || Name <- [esdb_gater_worker_registry, ?EVENTS, esdb_gater_port]].

%%% Helpers

value(Key, Config) -> proplists:get_value(Key, Config).

on(Beam, Fun) -> gater_harness:on(Beam, Fun).

until(Condition) -> gater_harness:until(Condition).

embedded(Config, Env) ->
    Beam = gater_shim:node(value(world, Config), [?MODULE], #{otp => value(otp, Config)}),
    ok = gater_shim:start(Beam, gater_shim:embedded(#{otp => value(otp, Config)}) ++ Env),
    Beam.

named(Config, Gateways) ->
    Beam = gater_shim:node(value(world, Config), [?MODULE], #{otp => value(otp, Config)}),
    ok = gater_shim:start(Beam, gater_shim:named(Gateways)),
    Beam.

%% Registering, executing, subscribing and publishing.
works(Beam) ->
    [Worker] = gater_shim:workers(Beam, works, 1),
    on(Beam, fun() ->
        {ok, {Worker, 1}} =
            esdb_gater_api:execute(works, fun(W) -> gen_server:call(W, {echo, 1}) end),
        ok = esdb_channel_server:subscribe(?EVENTS, ?TOPIC, self()),
        ok = esdb_channel_server:publish(?EVENTS, ?TOPIC, works),
        receive {channel_message, ?EVENTS, ?TOPIC, works} -> ok end
    end).

works_signed(Beam) ->
    on(Beam, fun() ->
        Signed = esdb_pubsub_security:sign(#{type => alert, level => critical}),
        ok = esdb_channel_server:subscribe(esdb_channel_alerts, ?TOPIC, self()),
        ok = esdb_channel_server:publish(esdb_channel_alerts, ?TOPIC, Signed),
        receive {channel_message, esdb_channel_alerts, ?TOPIC, Signed} -> ok end
    end).

program(Beam) ->
    case on(Beam, fun esdb_gater_port:os_pid/0) of
        {ok, OsPid} -> OsPid;
        none -> none
    end.

subscriber(Beam, Topic) ->
    {_, Pid} = Agent = gater_harness:agent(Beam),
    ok = on(Beam, fun() -> esdb_channel_server:subscribe(?EVENTS, Topic, Pid) end),
    Agent.

publish(Beam, Topic, Message) ->
    on(Beam, fun() -> esdb_channel_server:publish(?EVENTS, Topic, Message) end).

payloads(Agent) -> [Payload || {channel_message, _, _, Payload} <- gater_harness:messages(Agent)].
