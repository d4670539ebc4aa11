%%% @doc Telemetry events of the gateway, and handlers for them.
%%%
%%% Where the application `telemetry' runs, events go through it, so that handlers that are attached
%%% there see them. Otherwise a built-in dispatcher with the same rules is used: a handler is a fun
%%% with four arguments that is called in the process that emits; a handler that crashes is detached
%%% and the crash is logged. Handlers of that dispatcher need no process and outlive the
%%% application.
%%%
%%% Events that happen in the gateway (a worker registered or unregistered, a node up or down, a
%%% broadcast, an alarm) reach handlers on the nodes that are linked to it; they are only sent while a handler
%%% is attached there.
%%%
%%% `duration' is in microseconds, `system_time' in milliseconds, `delay_ms' in milliseconds.
%%% @end
-module(esdb_gater_telemetry).

-include("../include/esdb_gater_telemetry.hrl").
-include_lib("kernel/include/logger.hrl").

-export([attach_default_handler/0, detach_default_handler/0, attach/3, detach/1,
         emit/3, handle_event/4]).
%% Exported for the rest of the application.
-export([enabled/0, events/0, gateway_events/0, refresh/0, start_application/0, use_configured/1]).

-export_type([event/0, handler/0]).

-type event() :: [atom(), ...].
-type handler() :: fun((event(), Measurements :: map(), Metadata :: map(), Config :: term()) ->
                           term()).

-define(DEFAULT_HANDLER, esdb_gater_telemetry_handler).
%% The key of one term: the dispatcher, and the handlers of the built-in dispatcher in order of
%% attachment. The term is absent while there are no handlers, so the common case costs one look-up.
-define(KEY, {?MODULE, handlers}).
-define(TURN, esdb_gater_telemetry_turn).

%% @doc Logs every event through `logger': failures and losses as warnings; retries, and workers and
%% nodes that come and go, as notices, the lowest level that OTP shows by default; and every request
%% or message as debug.
-spec attach_default_handler() -> ok | {error, already_exists}.
attach_default_handler() ->
    attach(?DEFAULT_HANDLER, fun ?MODULE:handle_event/4, #{}).

%% @doc Detaches the handler of {@link attach_default_handler/0}.
-spec detach_default_handler() -> ok | {error, not_found}.
detach_default_handler() ->
    detach(?DEFAULT_HANDLER).

%% @doc Calls `Handler(Event, Measurements, Metadata, Config)' for every event of the gateway.
-spec attach(Id :: term(), handler(), Config :: term()) -> ok | {error, already_exists}.
attach(Id, Handler, Config) when is_function(Handler, 4) ->
    Result = locked(fun() ->
        case refreshed() of
            {telemetry, Handlers} ->
                case lists:keymember(Id, 1, Handlers) of
                    true -> {error, already_exists};
                    false -> (telemetry()):attach_many(Id, events(), Handler, Config)
                end;
            {builtin, Handlers} ->
                case lists:keymember(Id, 1, Handlers) of
                    true -> {error, already_exists};
                    false -> store(builtin, Handlers ++ [{Id, Handler, Config}])
                end
        end
    end),
    tell_link(Result).

%% @doc Detaches a handler from all events that it was attached to.
-spec detach(Id :: term()) -> ok | {error, not_found}.
detach(Id) ->
    Result = locked(fun() ->
        {Backend, Handlers} = current(),
        case lists:keytake(Id, 1, Handlers) of
            {value, _, Rest} -> store(Backend, Rest);
            false when Backend =:= telemetry -> (telemetry()):detach(Id);
            false -> {error, not_found}
        end
    end),
    tell_link(Result).

%% @doc Passes an event to the handlers. This never fails, whatever they do.
-spec emit(event(), Measurements :: map(), Metadata :: map()) -> ok.
emit(Event, Measurements, Metadata) ->
    case persistent_term:get(?KEY, none) of
        none ->
            ok;
        {Backend, Handlers} ->
            %% Handlers are attached only for the events of the application.
            case lists:member(Event, events()) of
                true -> lists:foreach(fun(H) -> call(H, Event, Measurements, Metadata) end, Handlers);
                false -> ok
            end,
            case Backend of
                telemetry -> through_telemetry(Event, Measurements, Metadata);
                builtin -> ok
            end
    end.

%% @doc Logs an event in one line. This is the default handler.
-spec handle_event(event(), map(), map(), term()) -> ok.
handle_event(Event, Measurements, Metadata, _Config) ->
    ?LOG(level(Event), "~ts ~tp ~tp",
         [lists:join($., [atom_to_list(E) || E <- Event]), Measurements, Metadata],
         #{application => erl_esdb_gater}),
    ok.

level([esdb_gater, request, error]) -> warning;
level([esdb_gater, retry, exhausted]) -> warning;
level([esdb_gater, cluster, node, down]) -> warning;
level([esdb_gater, channel, dropped]) -> warning;
level([esdb_gater, alarm, raised]) -> warning;
level([esdb_gater, alarm, cleared]) -> notice;
level([esdb_gater, retry, attempt]) -> notice;
level([esdb_gater, cluster, node, up]) -> notice;
level([esdb_gater, worker, registered]) -> notice;
level([esdb_gater, worker, unregistered]) -> notice;
level(_) -> debug.

%% @private Returns whether there may be handlers, so that emitting is necessary.
-spec enabled() -> boolean().
enabled() ->
    persistent_term:get(?KEY, none) =/= none.

%% @doc Returns the names of all events.
-spec events() -> [event(), ...].
events() ->
    [?GATER_WORKER_LOOKUP, ?GATER_REQUEST_START, ?GATER_REQUEST_STOP, ?GATER_REQUEST_ERROR,
     ?GATER_RETRY_ATTEMPT, ?GATER_RETRY_EXHAUSTED | from_gateway()].

from_gateway() ->
    [?GATER_WORKER_REGISTERED, ?GATER_WORKER_UNREGISTERED, ?GATER_CLUSTER_NODE_UP,
     ?GATER_CLUSTER_NODE_DOWN, ?GATER_CHANNEL_BROADCAST, ?GATER_CHANNEL_DROPPED,
     ?GATER_ALARM_RAISED, ?GATER_ALARM_CLEARED].

%% @private Returns the events that happen in the gateway and have a handler on this node, sorted.
-spec gateway_events() -> [event()].
gateway_events() ->
    case persistent_term:get(?KEY, none) of
        none -> [];
        {_, [_ | _]} -> lists:sort(from_gateway());
        {telemetry, []} ->
            lists:sort([E || E <- from_gateway(), has_telemetry_handler(E)])
    end.

has_telemetry_handler(Event) ->
    try (telemetry()):list_handlers(Event) of
        Handlers -> lists:any(fun(#{event_name := Name}) -> Name =:= Event; (_) -> true end, Handlers)
    catch
        _:_ -> false
    end.

%% @private Checks again whether the application `telemetry' runs.
-spec refresh() -> ok.
refresh() ->
    {Backend, _} = current(),
    case backend() of
        Backend -> ok;
        _ -> _ = locked(fun refreshed/0), ok
    end.

%% @private Starts the application `telemetry' if it exists. Not while the system boots: a release
%% that contains it starts it itself, and it is found then.
-spec start_application() -> ok.
start_application() ->
    case {init:get_status(), code:where_is_file("telemetry.app")} of
        {{started, _}, File} when is_list(File) ->
            _ = application:ensure_all_started(telemetry),
            ok;
        _ ->
            ok
    end.

%% @private Attaches the handlers that the configuration key `telemetry_handlers' names.
-spec use_configured([logger | opentelemetry]) -> ok.
use_configured(Names) ->
    lists:foreach(fun(logger) -> _ = attach_default_handler();
                     (opentelemetry) -> _ = esdb_gater_opentelemetry:attach()
                  end, Names).

refreshed() ->
    {Before, Handlers} = current(),
    case backend() of
        Before -> {Before, Handlers};
        Now -> ok = store(Now, Handlers), {Now, Handlers}
    end.

current() ->
    persistent_term:get(?KEY, {builtin, []}).

%% This must not be called while an application stops, since the application controller does not
%% answer then.
backend() ->
    try lists:keymember(telemetry, 1, application:which_applications(200)) of
        true ->
            case code:ensure_loaded(telemetry) of
                {module, telemetry} -> telemetry;
                _ -> builtin
            end;
        false ->
            builtin
    catch
        exit:_ -> element(1, current())
    end.

store(builtin, []) ->
    _ = persistent_term:erase(?KEY),
    ok;
store(Backend, Handlers) ->
    persistent_term:put(?KEY, {Backend, Handlers}).

call({Id, Handler, Config}, Event, Measurements, Metadata) ->
    try
        _ = Handler(Event, Measurements, Metadata, Config),
        ok
    catch
        Class:Reason:Stack ->
            _ = detach(Id),
            ?LOG_ERROR("telemetry handler ~tp has failed on ~tp and is detached: ~tp:~tp~n~tp",
                       [Id, Event, Class, Reason, Stack], #{application => erl_esdb_gater})
    end.

%% The name is not written as a literal, since every tool would report the missing module.
-spec telemetry() -> module().
telemetry() -> telemetry.

%% The application may be stopped at any moment.
through_telemetry(Event, Measurements, Metadata) ->
    try
        _ = (telemetry()):execute(Event, Measurements, Metadata),
        ok
    catch
        _:_ -> ok
    end.

%% Runs writers one at a time.
locked(Fun) ->
    esdb_gater_turns:run(?TURN, Fun).

tell_link(ok) ->
    esdb_gater_link:handlers_changed(),
    ok;
tell_link(Error) ->
    Error.
