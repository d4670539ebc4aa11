%% @doc The Quick Start and the API Reference, line by line, from a BEAM without a name.
-module(quick_start).

-include_lib("erl_esdb_gater/include/esdb_gater.hrl").
-include_lib("erl_esdb_gater/include/esdb_gater_telemetry.hrl").

-export([main/0]).

-define(WAIT_MS, 20000).

-spec main() -> no_return().
main() ->
    try
        nonode@nohost = node(),
        quick_start(),
        io:format("quick start: passed~n"),
        registry(),
        operations(),
        channels(),
        security(),
        retry(),
        telemetry(),
        io:format("API reference: passed~n"),
        nif(),
        stopped()
    of
        ok -> io:format("passed~n"), halt(0)
    catch
        Class:Reason:Stack ->
            io:format("failed: ~tp~n", [{Class, Reason, Stack}]),
            halt(1)
    end.

quick_start() ->
    StreamId = <<"user-1">>,
    Events = [#{event_type => <<"user_created">>}],
    Self = self(),
    %% Who answers the calls below.
    Worker = spawn_link(fun Loop() ->
        receive
            {'$gen_call', From, {append, Stream, New}} ->
                gen_server:reply(From, {ok, {Stream, length(New)}}),
                Loop()
        end
    end),

    %% Start the application
    application:ensure_all_started(erl_esdb_gater),

    %% Register a worker for a store
    ok = esdb_gater_api:register_worker(my_store, Worker),

    %% Execute an operation with automatic retry and load balancing
    {ok, Result} = esdb_gater_api:execute(my_store, fun(Chosen) ->
        gen_server:call(Chosen, {append, StreamId, Events})
    end),
    {StreamId, 1} = Result,

    %% Subscribe to events channel
    Topic = <<"events.user.created">>,
    ok = esdb_channel_server:subscribe(esdb_channel_events, Topic, self()),
    ok = esdb_channel_server:publish(esdb_channel_events, Topic, #{user => 1}),

    %% Receive events
    receive
        {channel_message, esdb_channel_events, Topic, Event} ->
            #{user := 1} = Event
    after ?WAIT_MS -> error(no_event)
    end,

    %% Publish to alerts channel (requires HMAC)
    SignedMsg = esdb_pubsub_security:sign(#{type => alert, level => critical}),
    ok = esdb_channel_server:publish(esdb_channel_alerts, <<"alerts.critical">>, SignedMsg),

    %% And with the process itself as the worker, as printed.
    ok = esdb_gater_api:register_worker(my_own_store, self()),
    {ok, Self} = esdb_gater_api:execute(my_own_store, fun(Chosen) -> Chosen end).

registry() ->
    StoreId = reference,
    Pid = self(),
    Node = node(),
    ok = esdb_gater_api:register_worker(StoreId, Pid),
    {ok, [{Node, Pid}]} = esdb_gater_api:get_workers(StoreId),
    [Pid] = esdb_gater_api:get_local_workers(StoreId),
    ok = esdb_gater_api:unregister_worker(StoreId, Pid),
    {ok, []} = esdb_gater_api:get_workers(StoreId).

operations() ->
    Self = self(),
    Fun = fun(Worker) -> {ok, Worker} end,
    ok = esdb_gater_api:register_worker(operations, Self),
    {ok, Self} = esdb_gater_api:execute(operations, Fun),
    {ok, Self} = esdb_gater_api:execute(operations, Fun, esdb_gater_retry:new_config(100, 5000, 5)),
    ok = esdb_gater_api:cast(operations, fun(Worker) -> Worker ! {cast_to, Worker} end),
    receive {cast_to, Self} -> ok after ?WAIT_MS -> error(no_cast) end,
    {error, no_workers} = esdb_gater_api:cast(no_such_store, Fun).

channels() ->
    Topic = <<"topic">>,
    [begin
         ok = esdb_channel_server:subscribe(Channel, Topic, self()),
         ok = esdb_channel_server:publish(Channel, Topic, esdb_pubsub_security:sign(#{a => Channel})),
         receive {channel_message, Channel, Topic, #{a := Channel}} -> ok
         after ?WAIT_MS -> error({no_message, Channel})
         end,
         ok = esdb_channel_server:unsubscribe(Channel, Topic, self())
     end || Channel <- [esdb_channel_alerts, esdb_channel_security, esdb_channel_events,
                        esdb_channel_health, esdb_channel_system, esdb_channel_metrics,
                        esdb_channel_audit, esdb_channel_lifecycle, esdb_channel_logging,
                        esdb_channel_diagnostics]],
    {error, signature_required} = esdb_channel_server:publish(esdb_channel_alerts, Topic, #{a => 1}),
    Signed = esdb_pubsub_security:sign(#{a => 1}),
    {error, invalid_signature} =
        esdb_channel_server:publish(esdb_channel_alerts, Topic, Signed#{a := 2}),
    Answers = [esdb_channel_server:publish(esdb_channel_diagnostics, <<"much">>, I)
               || I <- lists:seq(1, 500)],
    [ok, {error, rate_limited}] = lists:usort(Answers).

security() ->
    Signed = esdb_pubsub_security:sign(#{a => 1}),
    ok = esdb_pubsub_security:verify(Signed),
    Own = esdb_pubsub_security:sign(#{a => 1}, <<"own">>),
    ok = esdb_pubsub_security:verify(Own, <<"own">>),
    {error, invalid_signature} = esdb_pubsub_security:verify(Own),
    ok = esdb_pubsub_security:set_secret(<<"another">>),
    <<"another">> = esdb_pubsub_security:get_secret(),
    ok = esdb_channel_server:publish(esdb_channel_alerts, <<"t">>,
                                     esdb_pubsub_security:sign(#{a => 1}, <<"another">>)).

retry() ->
    Config = esdb_gater_retry:new_config(
        100,     %% base_delay_ms
        5000,    %% max_delay_ms
        5        %% max_attempts
    ),
    #retry_config{base_delay_ms = 100, max_delay_ms = 5000, max_retries = 4} = Config,
    Config = esdb_gater_retry:default_config(),
    Delay = esdb_gater_retry:calculate_delay(1, Config),
    true = Delay >= 200 andalso Delay =< 250,
    {ok, 1} = esdb_gater_retry:with_retry(store, fun() -> 1 end),
    {ok, 1} = esdb_gater_retry:with_retry(store, fun() -> 1 end, Config).

telemetry() ->
    Self = self(),
    %% Attach default logger handler
    ok = esdb_gater_telemetry:attach_default_handler(),
    %% Attach custom handler
    Handler = fun(Event, _Measurements, _Meta, _Config) ->
        Self ! {event, Event},
        ok
    end,
    ok = esdb_gater_telemetry:attach(my_handler, Handler, #{}),
    {ok, []} = esdb_gater_api:get_workers(nothing),
    ok = esdb_gater_api:register_worker(told, self()),
    [receive {event, Event} -> ok after ?WAIT_MS -> error({no_event, Event}) end
     || Event <- [?GATER_WORKER_LOOKUP, ?GATER_WORKER_REGISTERED]],
    %% Detach handler
    ok = esdb_gater_telemetry:detach(my_handler),
    ok = esdb_gater_telemetry:detach_default_handler(),
    [esdb_gater, channel, broadcast] = ?GATER_CHANNEL_BROADCAST,
    ok.

nif() ->
    case os:getenv("CONSUMER_WITHOUT_NATIVE") of
        false -> true = esdb_gater_nif:loaded(), io:format("NIF: loaded~n");
        _ -> false = esdb_gater_nif:loaded(), io:format("NIF: not there~n")
    end.

stopped() ->
    ok = application:stop(erl_esdb_gater),
    nonode@nohost = node(),
    ok.
