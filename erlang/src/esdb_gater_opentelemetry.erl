%%% @private
%%% @doc Turns the application's telemetry events into spans and metrics of OpenTelemetry.
%%%
%%% A handler for {@link esdb_gater_telemetry}, attached where the key `telemetry_handlers' names
%%% `opentelemetry'. It uses the API of the library `opentelemetry_api', and for metrics that of
%%% `opentelemetry_api_experimental', where they are there; neither is a dependency, so their
%%% functions are called by name.
%%%
%%% A request to a worker is a span of the process that makes it: a child of that process' current
%%% span, and itself the current span while the request lasts, so that what the function given to
%%% `execute' does belongs to it. Retries are events of that span. All events are counted, and the
%%% durations of requests and look-ups are histograms.
%%%
%%% A publication has no span here: its message reaches subscribers exactly as it was published, so
%%% it cannot carry a trace context.
%%% @end
-module(esdb_gater_opentelemetry).

-include("../include/esdb_gater_telemetry.hrl").
-include_lib("kernel/include/logger.hrl").

-export([attach/0, detach/0, handle_event/4]).

-define(HANDLER, esdb_gater_opentelemetry_handler).
-define(SCOPE, erl_esdb_gater).
%% The spans of the calling process that have not ended, the latest first.
-define(SPANS, '$esdb_gater_spans').
-define(MOST_CHARACTERS, 200).          % of a reason, in an attribute

%% What metrics are recorded with: the meter, and whether the API wants the context as well.
-type config() :: none | {meter, Meter :: term(), context | no_context}.

%% @doc Attaches the handler. Without the API nothing is attached, which is logged.
-spec attach() -> ok | {error, already_exists | no_opentelemetry}.
attach() ->
    case is_there([opentelemetry, otel_tracer, otel_span, otel_ctx]) of
        true ->
            esdb_gater_telemetry:attach(?HANDLER, fun ?MODULE:handle_event/4, metrics());
        false ->
            ?LOG_WARNING("erl_esdb_gater: telemetry_handlers names opentelemetry, and the library "
                         "opentelemetry_api is not there: no spans and no metrics are made. Add it to "
                         "the project's dependencies", #{application => erl_esdb_gater}),
            {error, no_opentelemetry}
    end.

%% @doc Detaches the handler that makes spans and metrics of the application's events.
-spec detach() -> ok | {error, not_found}.
detach() ->
    esdb_gater_telemetry:detach(?HANDLER).

is_there(Modules) ->
    lists:all(fun(Module) -> code:ensure_loaded(Module) =:= {module, Module} end, Modules).

%%% Events

%% @doc Handles an event, for {@link esdb_gater_telemetry}.
-spec handle_event(esdb_gater_telemetry:event(), map(), map(), config()) -> ok.
handle_event(?GATER_REQUEST_START, _Measurements, Metadata, _Config) ->
    start_span(Metadata);
handle_event(?GATER_REQUEST_STOP, Measurements, Metadata, Config) ->
    ok = end_span(ok),
    request_ended(Measurements, Metadata, #{result => success}, Config);
handle_event(?GATER_REQUEST_ERROR, Measurements, #{reason := Reason} = Metadata, Config) ->
    ok = end_span({error, text(Reason)}),
    request_ended(Measurements, Metadata, #{result => error}, Config);
handle_event(?GATER_WORKER_LOOKUP, #{duration := Duration}, Metadata, Config) ->
    record(otel_histogram, record, 'esdb_gater.worker.lookup.duration', Duration,
           attributes([store_id], Metadata), Config);
handle_event(Event, Measurements, Metadata, Config) ->
    ok = add_span_event(Event, Measurements, Metadata),
    {Number, Keys} = counted(Event, Measurements),
    record(otel_counter, add, counter(Event), Number, attributes(Keys, Metadata), Config).

request_ended(#{duration := Duration}, Metadata, Result, Config) ->
    record(otel_histogram, record, 'esdb_gater.request.duration', Duration,
           maps:merge(attributes([store_id, request_type], Metadata), Result), Config).

%%% Spans

start_span(#{store_id := Store, request_type := Type}) ->
    Tracer = call(opentelemetry, get_tracer, [?SCOPE]),
    Options = #{kind => client, attributes => #{'esdb_gater.store_id' => Store,
                                                'esdb_gater.request_type' => Type}},
    Span = call(otel_tracer, start_span, [Tracer, <<"esdb_gater ", (atom_to_binary(Type))/binary>>,
                                           Options]),
    Context = call(otel_tracer, set_current_span, [call(otel_ctx, get_current, []), Span]),
    Token = call(otel_ctx, attach, [Context]),
    _ = put(?SPANS, [{Span, Token} | spans()]),
    ok.

%% There is none if the handler was attached while the request was under way.
end_span(Result) ->
    case spans() of
        [{Span, Token} | Others] ->
            _ = case Others of
                    [] -> erase(?SPANS);
                    _ -> put(?SPANS, Others)
                end,
            _ = case Result of
                    ok -> ok;
                    {error, Text} -> call(otel_span, set_status, [Span, error, Text])
                end,
            _ = call(otel_span, end_span, [Span]),
            _ = call(otel_ctx, detach, [Token]),
            ok;
        [] ->
            ok
    end.

spans() ->
    case get(?SPANS) of
        undefined -> [];
        Spans -> Spans
    end.

add_span_event(?GATER_RETRY_ATTEMPT, #{delay_ms := Delay, attempt := Attempt}, #{reason := Reason}) ->
    add_span_event(<<"retry">>, #{'esdb_gater.attempt' => Attempt, 'esdb_gater.delay_ms' => Delay,
                                  'esdb_gater.reason' => text(Reason)});
add_span_event(?GATER_RETRY_EXHAUSTED, #{total_attempts := Attempts}, #{reason := Reason}) ->
    add_span_event(<<"retries exhausted">>, #{'esdb_gater.attempts' => Attempts,
                                              'esdb_gater.reason' => text(Reason)});
add_span_event(_Event, _Measurements, _Metadata) ->
    ok.

add_span_event(Name, Attributes) ->
    case spans() of
        [{Span, _} | _] -> _ = call(otel_span, add_event, [Span, Name, Attributes]), ok;
        [] -> ok
    end.

%% A reason may hold whatever a worker has answered.
text(Reason) ->
    unicode:characters_to_binary(
        io_lib:format("~0tp", [Reason], [{chars_limit, ?MOST_CHARACTERS}])).

%%% Metrics

%% Without the experimental API there are spans only.
-spec metrics() -> config().
metrics() ->
    case is_there([opentelemetry_experimental, otel_meter, otel_counter, otel_histogram]) of
        true ->
            Meter = call(opentelemetry_experimental, get_meter, [?SCOPE]),
            lists:foreach(fun(Event) ->
                              call(otel_meter, create_counter, [Meter, counter(Event), #{}])
                          end, esdb_gater_telemetry:events() -- timed()),
            lists:foreach(fun(Name) ->
                              call(otel_meter, create_histogram, [Meter, Name, #{unit => us}])
                          end, ['esdb_gater.request.duration', 'esdb_gater.worker.lookup.duration']),
            {meter, Meter, case erlang:function_exported(otel_counter, add, 5) of
                               true -> context;
                               false -> no_context
                           end};
        false ->
            ?LOG_NOTICE("erl_esdb_gater: the library opentelemetry_api_experimental is not there: "
                        "spans are made, and no metrics", #{application => erl_esdb_gater}),
            none
    end.

timed() ->
    [?GATER_REQUEST_START, ?GATER_REQUEST_STOP, ?GATER_REQUEST_ERROR, ?GATER_WORKER_LOOKUP].

%% The instrument that counts an event: few names, known beforehand.
counter(Event) ->
    binary_to_atom(iolist_to_binary(lists:join($., [atom_to_list(Part) || Part <- Event]))).

%% How much an event counts, and the metadata that tells its series apart: nothing that grows with
%% processes, topics or reasons.
counted(?GATER_CHANNEL_BROADCAST, _Measurements) -> {1, [channel]};
counted(?GATER_CHANNEL_DROPPED, #{count := Count}) -> {Count, [channel, lane, reason]};
counted(?GATER_ALARM_RAISED, _Measurements) -> {1, [alarm, severity]};
counted(?GATER_ALARM_CLEARED, _Measurements) -> {1, [alarm, severity]};
counted(?GATER_CLUSTER_NODE_UP, _Measurements) -> {1, []};
counted(?GATER_CLUSTER_NODE_DOWN, _Measurements) -> {1, []};
counted(_OfAStore, _Measurements) -> {1, [store_id]}.

attributes(Keys, Metadata) ->
    maps:from_list([{Key, Value} || Key <- Keys, {ok, Value} <- [maps:find(Key, Metadata)],
                                    is_atom(Value) orelse is_binary(Value)]).

record(_Module, _Function, _Name, _Number, _Attributes, none) ->
    ok;
record(Module, Function, Name, Number, Attributes, {meter, Meter, context}) ->
    _ = call(Module, Function, [call(otel_ctx, get_current, []), Meter, Name, Number, Attributes]),
    ok;
record(Module, Function, Name, Number, Attributes, {meter, Meter, no_context}) ->
    _ = call(Module, Function, [Meter, Name, Number, Attributes]),
    ok.

%% By name, since every tool would report the missing modules.
call(Module, Function, Arguments) ->
    apply(Module, Function, Arguments).
