%%% @private
%%% @doc Passes the events of the gateway to the handlers on this node.
%%%
%%% This is a process of its own, so that a handler may use the application, for example to register
%%% a worker, and so that a slow handler does not block the link. The number of waiting events is
%%% bounded: further events are dropped and counted, and the count is logged when the handlers have
%%% caught up.
%%% @end
-module(esdb_gater_events).

-behaviour(gen_server).

-include_lib("kernel/include/logger.hrl").

-export([start_link/0, dispatch/3]).
-export([init/1, handle_call/3, handle_cast/2]).

-define(MOST_WAITING, 10000).
%% The indices of the counters.
-define(WAITING, 1).
-define(DROPPED, 2).

-spec start_link() -> {ok, pid()} | {error, term()}.
start_link() ->
    gen_server:start_link({local, ?MODULE}, ?MODULE, [], []).

%% @doc Passes an event to the handlers without waiting for them.
-spec dispatch(esdb_gater_telemetry:event(), Measurements :: map(), Metadata :: map()) -> ok.
dispatch(Event, Measurements, Metadata) ->
    case esdb_gater_shared_state:get(events) of
        {ok, Counters} ->
            case counters:get(Counters, ?WAITING) < ?MOST_WAITING of
                true ->
                    ok = counters:add(Counters, ?WAITING, 1),
                    gen_server:cast(?MODULE, {event, Event, Measurements, Metadata});
                false ->
                    counters:add(Counters, ?DROPPED, 1)
            end;
        none ->
            ok
    end.

-spec init([]) -> {ok, counters:counters_ref()}.
init([]) ->
    Counters = counters:new(2, []),
    ok = esdb_gater_shared_state:set(events, Counters),
    {ok, Counters}.

-spec handle_call(term(), gen_server:from(), State) -> {reply, {error, unknown_request}, State}.
handle_call(_Request, _From, State) ->
    {reply, {error, unknown_request}, State}.

-spec handle_cast(term(), counters:counters_ref()) -> {noreply, counters:counters_ref()}.
handle_cast({event, Event, Measurements, Metadata}, Counters) ->
    ok = esdb_gater_telemetry:emit(Event, Measurements, Metadata),
    ok = counters:sub(Counters, ?WAITING, 1),
    case counters:get(Counters, ?WAITING) of
        0 -> tell_dropped(Counters);
        _ -> ok
    end,
    {noreply, Counters};
handle_cast(_Message, Counters) ->
    {noreply, Counters}.

tell_dropped(Counters) ->
    case counters:get(Counters, ?DROPPED) of
        0 ->
            ok;
        Dropped ->
            ok = counters:sub(Counters, ?DROPPED, Dropped),
            ?LOG_WARNING("erl_esdb_gater: ~b telemetry events of the gateway were dropped: the "
                         "handlers on this node are too slow", [Dropped],
                         #{application => erl_esdb_gater})
    end.
