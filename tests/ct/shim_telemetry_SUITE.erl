%% @doc The events of the reference, from a handler in a BEAM: with the application `telemetry'
%% (a stand-in) and without.
-module(shim_telemetry_SUITE).

-include_lib("stdlib/include/assert.hrl").

-export([all/0, groups/0, suite/0, init_per_suite/1, end_per_suite/1, init_per_group/2,
         end_per_group/2]).
-export([workers_registered_and_unregistered_are_told/1, a_look_up_is_told/1,
         a_request_is_told_from_start_to_stop/1, a_failed_request_is_told/1,
         retries_are_told/1, nodes_that_come_and_go_are_told/1, a_broadcast_is_told/1,
         a_crashing_handler_is_detached/1, a_second_handler_of_a_name_is_refused/1,
         the_default_handler_can_be_attached_and_detached/1,
         the_gateway_sends_nothing_while_nobody_listens/1, handlers_survive_a_lost_gateway/1,
         a_handler_attached_with_telemetry_itself_is_served/1,
         telemetry_may_come_and_go/1, telemetry_is_started_where_it_is_there/1,
         the_configured_logger_is_attached_at_the_start/1]).

suite() -> [{timetrap, {minutes, 2}}].

all() -> [{group, otp25}, {group, otp27}, {group, otp29}].

groups() ->
    Both = [workers_registered_and_unregistered_are_told, a_look_up_is_told,
            a_request_is_told_from_start_to_stop, a_failed_request_is_told, retries_are_told,
            nodes_that_come_and_go_are_told, a_broadcast_is_told, a_crashing_handler_is_detached,
            a_second_handler_of_a_name_is_refused,
            the_default_handler_can_be_attached_and_detached,
            the_gateway_sends_nothing_while_nobody_listens, handlers_survive_a_lost_gateway,
            the_configured_logger_is_attached_at_the_start],
    [{builtin, Both ++ [telemetry_may_come_and_go]},
     {telemetry, Both ++ [a_handler_attached_with_telemetry_itself_is_served]}
     %% The library that is put there is seen on this system only.
     | [{Release, [{group, builtin}, {group, telemetry}
                   | [telemetry_is_started_where_it_is_there || Release =:= otp25]]}
        || Release <- [otp25, otp27, otp29]]].

init_per_suite(Config) ->
    World = gater_harness:new(),
    Gateway = gater_harness:gateway(World),
    [{world, World}, {gateway, Gateway} | Config].

end_per_suite(Config) ->
    gater_harness:stop(value(world, Config)).

init_per_group(Release, Config) when Release =:= otp25; Release =:= otp27; Release =:= otp29 ->
    gater_harness:on_release(Release, Config);
init_per_group(Group, Config) ->
    Beam = gater_shim:node(value(world, Config), [?MODULE, telemetry], #{otp => value(otp, Config)}),
    case Group of
        telemetry -> ok = on(Beam, fun telemetry:install/0);
        builtin -> ok
    end,
    ok = gater_shim:start(Beam, gater_shim:named([value(gateway, Config)])),
    [{beam, Beam} | Config].

end_per_group(Group, Config) when Group =:= builtin; Group =:= telemetry ->
    gater_harness:kill_node(value(world, Config), value(beam, Config));
end_per_group(_Release, _Config) ->
    ok.

%%% The eleven

workers_registered_and_unregistered_are_told(Config) ->
    heard(Config, fun(Next) ->
        Pid = spawn(fun gater_shim:echo/0),
        ok = esdb_gater_api:register_worker(told, Pid),
        {#{system_time := Time1} = M1, #{store_id := told, node := Node, pid := Pid} = Meta1}
            = Next([esdb_gater, worker, registered]),
        Node = node(),
        {1, 3} = {map_size(M1), map_size(Meta1)},
        ok = milliseconds_now(Time1),
        ok = esdb_gater_api:unregister_worker(told, Pid),
        {#{system_time := Time2} = M2, #{store_id := told, pid := Pid} = Meta2}
            = Next([esdb_gater, worker, unregistered]),
        {1, 2} = {map_size(M2), map_size(Meta2)},
        ok = milliseconds_now(Time2),
        %% A death is told as well.
        ok = esdb_gater_api:register_worker(told, Pid),
        _ = Next([esdb_gater, worker, registered]),
        exit(Pid, kill),
        {_, #{pid := Pid}} = Next([esdb_gater, worker, unregistered])
    end).

a_look_up_is_told(Config) ->
    heard(Config, fun(Next) ->
        [begin
             Look(),
             {#{duration := Duration} = M, #{store_id := looked_up} = Meta}
                 = Next([esdb_gater, worker, lookup]),
             {1, 1} = {map_size(M), map_size(Meta)},
             true = is_integer(Duration) andalso Duration >= 0 andalso Duration < 5000000
         end || Look <- [fun() -> esdb_gater_api:get_workers(looked_up) end,
                         fun() -> esdb_gater_api:get_local_workers(looked_up) end]]
    end).

a_request_is_told_from_start_to_stop(Config) ->
    heard(Config, fun(Next) ->
        ok = esdb_gater_api:register_worker(asked, self()),
        {ok, done} = esdb_gater_api:execute(asked, fun(_) -> take_microseconds(20000), done end),
        {#{system_time := Time} = M1, #{store_id := asked, request_type := execute} = Meta1}
            = Next([esdb_gater, request, start]),
        {1, 2} = {map_size(M1), map_size(Meta1)},
        ok = milliseconds_now(Time),
        {_, #{store_id := asked}} = Next([esdb_gater, worker, lookup]),
        {#{duration := Duration} = M2,
         #{store_id := asked, request_type := execute, result := success} = Meta2}
            = Next([esdb_gater, request, stop]),
        {1, 3} = {map_size(M2), map_size(Meta2)},
        true = Duration >= 20000 andalso Duration < 20000000,
        ok = esdb_gater_api:cast(asked, fun(_) -> done end),
        {_, #{request_type := cast}} = Next([esdb_gater, request, start]),
        {_, #{request_type := cast}} = Next([esdb_gater, request, stop])
    end).

a_failed_request_is_told(Config) ->
    heard(Config, fun(Next) ->
        ok = esdb_gater_api:register_worker(failing, self()),
        {error, not_found} = esdb_gater_api:execute(failing, fun(_) -> {error, not_found} end),
        {#{duration := Duration} = M,
         #{store_id := failing, request_type := execute, reason := not_found} = Meta}
            = Next([esdb_gater, request, error]),
        {1, 3} = {map_size(M), map_size(Meta)},
        true = is_integer(Duration),
        {'EXIT', _} = (catch esdb_gater_api:execute(failing, fun(_) -> error(bug) end)),
        {_, #{reason := {error, bug}}} = Next([esdb_gater, request, error])
    end).

retries_are_told(Config) ->
    heard(Config, fun(Next) ->
        ok = esdb_gater_api:register_worker(retried, self()),
        {error, _} = esdb_gater_api:execute(retried, fun(_) -> {error, busy} end,
                                            esdb_gater_retry:new_config(2, 100, 3)),
        [begin
             {#{delay_ms := Delay, attempt := Attempt} = M,
              #{store_id := retried, reason := busy} = Meta} = Next([esdb_gater, retry, attempt]),
             {2, 2} = {map_size(M), map_size(Meta)},
             true = Delay >= Least andalso Delay =< Least * 1.25
         end || {Attempt, Least} <- [{1, 2}, {2, 4}]],
        {#{total_attempts := 3} = M3, #{store_id := retried, reason := busy} = Meta3}
            = Next([esdb_gater, retry, exhausted]),
        {1, 2} = {map_size(M3), map_size(Meta3)}
    end).

nodes_that_come_and_go_are_told(Config) ->
    World = value(world, Config),
    #{node := Gateway} = value(gateway, Config),
    Beam = value(beam, Config),
    Listener = listener(Beam),
    Other = gater_harness:node(World, #{modules => [?MODULE]}),
    #{node := Node} = Other,
    pong = on(Other, fun() -> net_adm:ping(Gateway) end),
    Told = fun(Event) ->
               until(fun() -> [] =/= [N || {E, _, #{node := N}} <- events(Listener), E =:= Event,
                                           N =:= Node] end),
               hd([{M, Meta} || {E, M, #{node := N} = Meta} <- events(Listener), E =:= Event, N =:= Node])
           end,
    {#{system_time := Time} = M1, #{member_count := Count, gateway_count := 1} = Meta1}
        = Told([esdb_gater, cluster, node, up]),
    ?assertEqual({1, 3}, {map_size(M1), map_size(Meta1)}),
    ?assert(is_integer(Count) andalso Count >= 2),
    ok = milliseconds_now(Time),
    gater_harness:kill_node(World, Other),
    {#{system_time := _} = M2, #{member_count := Fewer} = Meta2}
        = Told([esdb_gater, cluster, node, down]),
    ?assertEqual({1, 3}, {map_size(M2), map_size(Meta2)}),
    ?assertEqual(Count - 1, Fewer),
    unlisten(Beam, Listener).

a_broadcast_is_told(Config) ->
    heard(Config, fun(Next) ->
        ok = esdb_channel_server:subscribe(esdb_channel_events, <<"told">>, self()),
        ok = esdb_channel_server:publish(esdb_channel_events, <<"told">>, m),
        {#{recipient_count := 1} = M,
         #{channel := esdb_channel_events, topic := <<"told">>} = Meta}
            = Next([esdb_gater, channel, broadcast]),
        {1, 2} = {map_size(M), map_size(Meta)},
        ok = esdb_channel_server:unsubscribe(esdb_channel_events, <<"told">>, self())
    end).

%%% Handlers

a_crashing_handler_is_detached(Config) ->
    on(value(beam, Config), fun() ->
        ok = esdb_gater_telemetry:attach(crashing, fun(_, _, _, _) -> error(on_purpose) end, none),
        {ok, []} = esdb_gater_api:get_workers(nothing),
        {error, not_found} = esdb_gater_telemetry:detach(crashing)
    end).

a_second_handler_of_a_name_is_refused(Config) ->
    on(value(beam, Config), fun() ->
        Handler = fun(_, _, _, _) -> ok end,
        ok = esdb_gater_telemetry:attach(same, Handler, #{}),
        {error, already_exists} = esdb_gater_telemetry:attach(same, Handler, #{}),
        ok = esdb_gater_telemetry:detach(same),
        {error, not_found} = esdb_gater_telemetry:detach(same)
    end).

the_default_handler_can_be_attached_and_detached(Config) ->
    on(value(beam, Config), fun() ->
        ok = esdb_gater_telemetry:attach_default_handler(),
        {error, already_exists} = esdb_gater_telemetry:attach_default_handler(),
        {ok, []} = esdb_gater_api:get_workers(nothing),
        ok = esdb_gater_telemetry:detach_default_handler(),
        {error, not_found} = esdb_gater_telemetry:detach_default_handler()
    end).

the_gateway_sends_nothing_while_nobody_listens(Config) ->
    Beam = value(beam, Config),
    Listening = fun() -> on(Beam, fun() -> maps:get(events, esdb_gater_link:status()) end) end,
    until(fun() -> Listening() =:= [] end),
    Listener = listener(Beam),
    Asked = Listening(),
    ?assertEqual(on(Beam, fun esdb_gater_telemetry:gateway_events/0), Asked),
    ?assert(lists:member([esdb_gater, worker, registered], Asked)),
    unlisten(Beam, Listener),
    ?assertEqual([], Listening()).

handlers_survive_a_lost_gateway(Config) ->
    World = value(world, Config),
    Own = gater_harness:gateway(World),
    Beam = gater_shim:node(World, [?MODULE, telemetry], #{otp => value(otp, Config)}),
    ok = gater_shim:start(Beam, gater_shim:named([Own])),
    Listener = listener(Beam),
    _ = gater_shim:workers(Beam, before, 1),
    gater_harness:signal(Own, "KILL"),
    _ = gater_harness:await_exit(World, Own),
    _ = gater_harness:restart(World, Own),
    [Pid] = gater_shim:workers(Beam, later, 1),
    until(fun() -> [] =/= [E || {[_, worker, registered] = E, _, #{pid := P}} <- events(Listener),
                                P =:= Pid] end),
    gater_harness:kill_node(World, Beam).

a_handler_attached_with_telemetry_itself_is_served(Config) ->
    on(value(beam, Config), fun() ->
        Self = self(),
        ok = telemetry:attach(direct, [esdb_gater, worker, registered],
                              fun(Event, _, Meta, Tag) -> Self ! {Tag, Event, Meta} end, direct),
        %% Who attaches there does not tell us: it is looked for once a second.
        Told = fun Ask() ->
            Pid = spawn(fun gater_shim:echo/0),
            ok = esdb_gater_api:register_worker(direct, Pid),
            receive {direct, [esdb_gater, worker, registered], #{store_id := direct}} -> ok
            after 200 -> Ask()
            end
        end,
        ok = Told(),
        ok = telemetry:detach(direct)
    end).

telemetry_may_come_and_go(Config) ->
    Beam = gater_shim:node(value(world, Config), [?MODULE, telemetry], #{otp => value(otp, Config)}),
    ok = gater_shim:start(Beam, gater_shim:named([value(gateway, Config)])),
    Listener = listener(Beam),
    Looked = fun(Store) ->
                 {ok, []} = on(Beam, fun() -> esdb_gater_api:get_workers(Store) end),
                 until(fun() -> 1 =:= length([S || {[_, worker, lookup], _, #{store_id := S}}
                                                       <- events(Listener), S =:= Store]) end)
             end,
    Looked(without),
    ok = on(Beam, fun telemetry:install/0),
    ok = on(Beam, fun esdb_gater_telemetry:refresh/0),
    Looked(with),
    ok = on(Beam, fun() -> application:stop(telemetry) end),
    Looked(stopped),
    gater_harness:kill_node(value(world, Config), Beam).

%% It is not among the applications that the application lists.
telemetry_is_started_where_it_is_there(Config) ->
    World = value(world, Config),
    Dir = filename:join(gater_harness:dir(World), "telemetry/ebin"),
    File = filename:join(Dir, "telemetry.app"),
    ok = filelib:ensure_dir(File),
    Application = {application, telemetry,
                   [{vsn, "1.0.0"}, {modules, [telemetry]}, {registered, []},
                    {applications, [kernel, stdlib]}, {mod, {telemetry, []}}]},
    ok = file:write_file(File, io_lib:format("~tp.~n", [Application])),
    Beam = gater_shim:node(World, [?MODULE, telemetry], #{otp => value(otp, Config), args => ["-pa", Dir]}),
    ok = gater_shim:start(Beam, gater_shim:named([value(gateway, Config)])),
    ?assert(on(Beam, fun() ->
        lists:keymember(telemetry, 1, application:which_applications())
    end)),
    gater_harness:kill_node(World, Beam).

the_configured_logger_is_attached_at_the_start(Config) ->
    Beam = gater_shim:node(value(world, Config), [?MODULE], #{otp => value(otp, Config)}),
    ok = gater_shim:start(Beam, [{telemetry_handlers, [logger]}
                                 | gater_shim:named([value(gateway, Config)])]),
    ?assertEqual({error, already_exists},
                 on(Beam, fun esdb_gater_telemetry:attach_default_handler/0)),
    gater_harness:kill_node(value(world, Config), Beam).

%%% Helpers

value(Key, Config) -> proplists:get_value(Key, Config).

on(Beam, Fun) -> gater_harness:on(Beam, Fun).

until(Condition) -> gater_harness:until(Condition).

%% Runs a function on the node with a handler that tells it everything. It is given a function
%% that waits for the next event of a name and gives its measurements and metadata.
heard(Config, Fun) ->
    on(value(beam, Config), fun() ->
        Self = self(),
        Id = make_ref(),
        ok = esdb_gater_telemetry:attach(Id, fun(Event, Measurements, Meta, Tag) ->
                                                 Self ! {Tag, Event, Measurements, Meta}
                                             end, Id),
        try
            Fun(fun(Event) ->
                    receive {Id, Event, Measurements, Meta} -> {Measurements, Meta}
                    after 20000 -> error({not_told, Event})
                    end
                end)
        after
            esdb_gater_telemetry:detach(Id)
        end
    end).

%% The same for events that several processes cause.
listener(Beam) ->
    {_, Pid} = Agent = gater_harness:agent(Beam),
    ok = on(Beam, fun() ->
        esdb_gater_telemetry:attach(Pid, fun(Event, Measurements, Meta, To) ->
                                             To ! {event, Event, Measurements, Meta}
                                         end, Pid)
    end),
    Agent.

unlisten(Beam, {_, Pid}) ->
    ok = on(Beam, fun() -> esdb_gater_telemetry:detach(Pid) end).

events(Listener) ->
    [{Event, Measurements, Meta} || {event, Event, Measurements, Meta} <- gater_harness:messages(Listener)].

milliseconds_now(Time) ->
    Now = erlang:system_time(millisecond),
    true = abs(Now - Time) < 60000,
    ok.

%% By the clock that is measured with.
take_microseconds(N) ->
    Started = erlang:monotonic_time(microsecond),
    (fun Wait() ->
         case erlang:monotonic_time(microsecond) - Started < N of
             true -> erlang:yield(), Wait();
             false -> ok
         end
     end)().
