%% @doc What the application promises its callers, where other processes of the node, other nodes
%% and the order of events put it to the test.
-module(shim_contract_SUITE).

-include_lib("stdlib/include/assert.hrl").

-export([all/0, groups/0, suite/0, init_per_suite/1, end_per_suite/1, init_per_group/2,
         end_per_group/2]).
-export([a_channel_named_like_a_process_is_none/1, a_channel_named_like_a_remote_process_is_none/1,
         a_channel_whose_name_is_taken_says_so/1,
         the_ten_channels_are_the_same_to_program_shim_and_reader/1,
         what_no_gateway_takes_is_refused_before_it_is_sent/1,
         workers_are_found_right_after_the_start/1,
         the_start_of_an_embedded_gateway_ends_with_its_registry/1,
         a_start_without_a_gateway_ends_when_none_is_reached/1,
         every_process_of_the_application_may_be_killed/1,
         every_process_of_an_embedded_gateway_may_be_killed/1]).

-define(EVENTS, esdb_channel_events).
-define(TOPIC, <<"topic">>).

suite() -> [{timetrap, {minutes, 5}}].

all() -> [{group, otp25}, {group, otp27}, {group, otp29}].

groups() ->
    Cases =
        [a_channel_named_like_a_process_is_none, a_channel_named_like_a_remote_process_is_none,
         a_channel_whose_name_is_taken_says_so,
         the_ten_channels_are_the_same_to_program_shim_and_reader,
         what_no_gateway_takes_is_refused_before_it_is_sent,
         workers_are_found_right_after_the_start,
         the_start_of_an_embedded_gateway_ends_with_its_registry,
         a_start_without_a_gateway_ends_when_none_is_reached,
         every_process_of_the_application_may_be_killed,
         every_process_of_an_embedded_gateway_may_be_killed],
    [{Release, Cases} || Release <- [otp25, otp27, otp29]].

init_per_suite(Config) -> Config.

end_per_suite(_Config) -> ok.

init_per_group(Group, Config) ->
    case gater_harness:on_release(Group, Config) of
        {skip, _} = Skip ->
            Skip;
        Chosen ->
            World = gater_harness:new(),
            Gateway = gater_harness:gateway(World, #{config => "[channels.own]\n[channels.taken]\n"}),
            Set = [{world, World}, {gateway, Gateway} | Chosen],
            Beam = beam(Set),
            ok = gater_shim:start(Beam, gater_shim:named([Gateway])),
            [{beam, Beam} | Set]
    end.

end_per_group(_Group, Config) ->
    gater_harness:stop(value(world, Config)).

%%% Channels are those of the gateway

a_channel_named_like_a_process_is_none(Config) ->
    on(value(beam, Config), fun() ->
        Server = spawn_agent(my_server),
        [is_no_channel(Name, self()) || Name <- [my_server, kernel_sup, init, erl_esdb_gater_sup]],
        %% The gateway has processes of these names.
        [is_no_channel(Name, self())
         || Name <- [net_kernel, rex, esdb_gater_worker_registry, esdb_gater_session]],
        [] = gater_agent:messages(Server)
    end).

a_channel_named_like_a_remote_process_is_none(Config) ->
    Plain = gater_harness:node(value(world, Config), #{modules => [?MODULE]}),
    {_, Pid} = Subscriber = gater_harness:agent(Plain),
    on(Plain, fun() -> spawn_agent(my_server), spawn_agent(?EVENTS) end),
    on(value(beam, Config), fun() ->
        [is_no_channel(Name, Pid) || Name <- [my_server, kernel_sup]],
        %% The channel there is, and the process of its name there is none of ours.
        ok = esdb_channel_server:subscribe(?EVENTS, <<"remote">>, Pid),
        [Pid] = esdb_channel_server:get_subscribers(?EVENTS, <<"remote">>),
        ok = esdb_channel_server:publish(?EVENTS, <<"remote">>, 1)
    end),
    until(fun() -> payloads(Subscriber) =:= [1] end),
    [?assertEqual([], on(Plain, fun() -> gater_agent:messages(whereis(Name)) end))
     || Name <- [my_server, ?EVENTS]],
    on(value(beam, Config), fun() -> ok = esdb_channel_server:unsubscribe(?EVENTS, <<"remote">>, Pid) end).

is_no_channel(Name, Pid) ->
    {error, unknown_channel} = esdb_channel_server:subscribe(Name, ?TOPIC, Pid),
    {error, unknown_channel} = esdb_channel_server:unsubscribe(Name, ?TOPIC, Pid),
    {error, unknown_channel} = esdb_channel_server:publish(Name, ?TOPIC, m),
    [] = esdb_channel_server:get_subscribers(Name, ?TOPIC).

a_channel_whose_name_is_taken_says_so(Config) ->
    on(value(beam, Config), fun() ->
        Server = spawn_agent(taken),
        {error, {name_in_use, taken}} = esdb_channel_server:subscribe(taken, ?TOPIC, self()),
        [] = esdb_channel_server:get_subscribers(taken, ?TOPIC),
        [] = gater_agent:messages(Server),
        exit(Server, kill)
    end),
    until(fun() -> on(value(beam, Config), fun() ->
        ok =:= esdb_channel_server:subscribe(taken, ?TOPIC, self())
    end) end).

the_ten_channels_are_the_same_to_program_shim_and_reader(Config) ->
    Program = on(value(beam, Config), fun esdb_gater_link:gateway_channels/0),
    Shim = on(value(beam, Config), fun esdb_gater_config:default_channels/0),
    ?assertEqual(10, map_size(Shim)),
    Ten = maps:without([own, taken], Program),
    ?assertEqual(Shim, maps:map(fun(_, Policy) -> maps:remove(refuses, Policy) end, Ten)),
    [?assertEqual({Name, Rate =/= infinity orelse Hmac =:= required}, {Name, Refuses})
     || {Name, #{max_rate := Rate, hmac := Hmac, refuses := Refuses}} <- maps:to_list(Ten)],
    ?assertEqual(Shim, in_the_readme()).

%% The rows `| channels | priority | rate | signature |' that name channels.
in_the_readme() ->
    {ok, Text} = file:read_file(filename:join(os:getenv("GATER_ROOT"), "README.md")),
    Rows = [string:split(Line, "|", all) || <<"| `esdb_channel_", _/binary>> = Line <- string:split(Text, "\n", all)],
    maps:from_list(
        [{binary_to_atom(Name), #{priority => binary_to_atom(string:trim(Priority)),
                                  max_rate => rate(string:trim(Rate)),
                                  hmac => binary_to_atom(string:trim(Hmac)),
                                  replay_last => nomatch =/= string:find(Channels, "replays")}}
         || [_, Channels, Priority, Rate, Hmac, _] <- Rows,
            {match, Names} <- [re:run(Channels, "`(esdb_channel_[a-z]+)`",
                                      [global, {capture, all_but_first, binary}])],
            [Name] <- Names]).

rate(<<"unlimited">>) -> infinity;
rate(PerSecond) -> binary_to_integer(re:replace(PerSecond, ",|/s", "", [global, {return, binary}])).

spawn_agent(Name) ->
    Pid = gater_agent:start(),
    true = register(Name, Pid),
    Pid.

%%% What a gateway would close the connection for

what_no_gateway_takes_is_refused_before_it_is_sent(Config) ->
    #{node := Gateway} = value(gateway, Config),
    on(value(beam, Config), fun() ->
        true = erlang:monitor_node(Gateway, true),
        Large = <<0:(65 * 1024 * 1024 * 8)>>,
        Deep = lists:foldl(fun(_, Acc) -> [Acc] end, [], lists:seq(1, 10001)),
        Mebibyte = <<0:(1024 * 1024 * 8)>>,
        Publish = fun(Topic, Message) -> esdb_channel_server:publish(?EVENTS, Topic, Message) end,
        {error, too_large} = Publish(?TOPIC, Large),
        {error, too_deep} = Publish(?TOPIC, Deep),
        {error, too_deep} = Publish(?TOPIC, #{deep => Deep, x => 1}),
        {error, {bad_topic, too_long}} = Publish(Large, m),
        {error, {bad_topic, not_binary}} = Publish(Deep, m),
        {error, too_large} = gen_server:call(?EVENTS, {publish, ?TOPIC, Large}),
        {error, too_deep} = gen_server:call(?EVENTS, {publish, ?TOPIC, Deep}),
        ok = gen_server:cast(?EVENTS, {publish, ?TOPIC, Deep}),
        {error, {bad_topic, too_long}} = esdb_channel_server:subscribe(?EVENTS, Large, self()),
        {error, {bad_topic, too_long}} = esdb_channel_server:unsubscribe(?EVENTS, Large, self()),
        [] = esdb_channel_server:get_subscribers(?EVENTS, Large),
        {error, too_large} = esdb_pubsub_security:sign(#{large => Large}),
        {error, too_deep} = esdb_pubsub_security:sign(#{deep => Deep, x => 1}),
        {error, too_deep} = esdb_pubsub_security:sign(#{deep => Deep, x => 1}, "secret"),
        %% As much as a gateway takes goes through, by the same connection as before.
        ok = esdb_channel_server:subscribe(?EVENTS, ?TOPIC, self()),
        ok = Publish(?TOPIC, tl(lists:foldl(fun(_, Acc) -> [Acc] end, [], lists:seq(1, 10000)))),
        ok = Publish(?TOPIC, {last, Mebibyte}),
        receive {channel_message, ?EVENTS, ?TOPIC, {last, Mebibyte}} -> ok end,
        ok = esdb_channel_server:unsubscribe(?EVENTS, ?TOPIC, self()),
        true = erlang:monitor_node(Gateway, false),
        receive {nodedown, Gateway} -> error(link_lost) after 0 -> ok end
    end).

%%% The start

workers_are_found_right_after_the_start(Config) ->
    [Worker] = gater_shim:workers(value(beam, Config), found, 1),
    World = value(world, Config),
    Env = gater_shim:named([value(gateway, Config)]),
    [begin
         Beam = beam(Config),
         found_at_once(Beam, Env, Worker, Look),
         gater_harness:kill_node(World, Beam)
     end || Look <- [execute, cast, call]].

found_at_once(Beam, Env, Worker, Look) ->
    on(Beam, fun() ->
        [ok = application:set_env(erl_esdb_gater, Key, Value, [{persistent, true}]) || {Key, Value} <- Env],
        Self = self(),
        {ok, _} = application:ensure_all_started(erl_esdb_gater),
        case Look of
            execute ->
                Once = esdb_gater_retry:new_config(1, 1, 1),
                {ok, Worker} = esdb_gater_api:execute(found, fun(W) -> W end, Once);
            cast ->
                ok = esdb_gater_api:cast(found, fun(W) -> Self ! {cast, W} end),
                receive {cast, Worker} -> ok end;
            call ->
                {ok, [{_, Worker}]} =
                    gen_server:call(esdb_gater_worker_registry, {get_workers, found})
        end
    end).

the_start_of_an_embedded_gateway_ends_with_its_registry(Config) ->
    World = value(world, Config),
    Embedded = gater_shim:embedded(#{otp => value(otp, Config)}),
    Host = beam(Config, #{args => ["-connect_all", "true"]}),
    on(Host, fun() ->
        [ok = application:set_env(erl_esdb_gater, Key, Value, [{persistent, true}])
         || {Key, Value} <- Embedded],
        {ok, _} = application:ensure_all_started(erl_esdb_gater),
        {ok, _} = esdb_gater_link:gateway()
    end),
    [Worker] = gater_shim:workers(Host, found, 1),
    Guest = beam(Config),
    #{node := HostNode} = Host,
    pong = on(Guest, fun() -> net_adm:ping(HostNode) end),
    found_at_once(Guest, Embedded, Worker, execute),
    [gater_harness:kill_node(World, Beam) || Beam <- [Guest, Host]].

a_start_without_a_gateway_ends_when_none_is_reached(Config) ->
    World = value(world, Config),
    [begin
         Beam = beam(Config),
         Started = erlang:monotonic_time(millisecond),
         ok = gater_shim:start(Beam, Env),
         %% Calls would wait for five seconds.
         ?assert(erlang:monotonic_time(millisecond) - Started < 4500),
         ?assertEqual([], on(Beam, fun() -> esdb_gater_api:get_local_workers(store) end)),
         gater_harness:kill_node(World, Beam)
     end || Env <- [[{gateways, ['nobody@127.0.0.1', 'none@127.0.0.1']}],
                    [{program, "/nowhere/esdb-gater"}]]].

%%% Killing

every_process_of_the_application_may_be_killed(Config) ->
    World = value(world, Config),
    Beam = beam(Config),
    ok = gater_shim:start(Beam, gater_shim:named([value(gateway, Config)])),
    kill_each(Beam, 3),
    gater_harness:kill_node(World, Beam).

every_process_of_an_embedded_gateway_may_be_killed(Config) ->
    World = value(world, Config),
    Beam = beam(Config),
    ok = gater_shim:start(Beam, gater_shim:embedded(Beam)),
    kill_each(Beam, 2),
    gater_harness:kill_node(World, Beam).

%% Each process so often, and what was registered and subscribed before works after.
kill_each(Beam, Times) ->
    [Worker] = gater_shim:workers(Beam, killed, 1),
    Subscribers = [subscriber(Beam, Channel) || Channel <- [?EVENTS, own], is_channel(Beam, Channel)],
    %% What is not started with the application but by a subscription comes back as well.
    Processes = on(Beam, fun() -> processes_of(erl_esdb_gater_sup) end),
    ?assert(lists:member(esdb_gater_cluster_sup, Processes)),
    ?assert(length(Processes) > 14),
    [begin
         ok = kill(Beam, Name),
         works(Beam, {Name, I}, Worker, Subscribers)
     end || Name <- [pulse | Processes], I <- lists:seq(1, Times)],
    ?assert(on(Beam, fun() -> lists:keymember(erl_esdb_gater, 1, application:which_applications()) end)).

%% All that are below the top supervisor, by name. To kill that one is to end the application.
processes_of(Supervisor) ->
    lists:append([[name(Pid) | [Name || supervisor <- [Type], Name <- processes_of(Pid)]]
                  || {_, Pid, Type, _} <- supervisor:which_children(Supervisor)]).

name(Pid) ->
    {registered_name, Name} = process_info(Pid, registered_name),
    Name.

%% It pings the gateway for the link and has no name.
kill(Beam, pulse) ->
    until(fun() -> on(Beam, fun() -> pulse() =/= none end) end),
    Killed = on(Beam, fun() -> Pid = pulse(), exit(Pid, kill), Pid end),
    until(fun() -> on(Beam, fun() -> not lists:member(pulse(), [none, Killed]) end) end);
kill(Beam, Name) ->
    until(fun() -> on(Beam, fun() -> whereis(Name) =/= undefined end) end),
    Killed = on(Beam, fun() -> Pid = whereis(Name), exit(Pid, kill), Pid end),
    until(fun() -> on(Beam, fun() -> not lists:member(whereis(Name), [undefined, Killed]) end) end).

pulse() ->
    try
        {links, Links} = process_info(whereis(esdb_gater_worker_registry), links),
        [Pulse] = [Pid || Pid <- Links, is_pid(Pid), process_info(Pid, current_function)
                             =:= {current_function, {esdb_gater_heartbeat, listen, 2}}],
        Pulse
    catch
        error:_ -> none
    end.

works(Beam, Round, Worker, Subscribers) ->
    [until(fun() ->
         on(Beam, fun() -> esdb_channel_server:publish(Channel, ?TOPIC, Round) end) =:= ok
             andalso lists:member(Round, payloads(Subscriber))
     end) || {Channel, Subscriber} <- Subscribers],
    until(fun() ->
        on(Beam, fun() -> esdb_gater_api:get_workers(killed) end) =:= {ok, [{node(Worker), Worker}]}
    end).

is_channel(Beam, Channel) ->
    on(Beam, fun() -> is_map_key(Channel, esdb_gater_link:gateway_channels()) end).

%%% Helpers

value(Key, Config) -> proplists:get_value(Key, Config).

beam(Config) -> beam(Config, #{}).

%% A node of the group's release that has the application.
beam(Config, Options) ->
    gater_shim:node(value(world, Config), [?MODULE], Options#{otp => value(otp, Config)}).

on(Beam, Fun) -> gater_harness:on(Beam, Fun).

until(Condition) -> gater_harness:until(Condition).

subscriber(Beam, Channel) ->
    {_, Pid} = Agent = gater_harness:agent(Beam),
    ok = on(Beam, fun() -> esdb_channel_server:subscribe(Channel, ?TOPIC, Pid) end),
    {Channel, Agent}.

payloads(Agent) -> [Payload || {channel_message, _, _, Payload} <- gater_harness:messages(Agent)].
