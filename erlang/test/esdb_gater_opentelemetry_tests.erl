%% Spans and metrics, made through a stand-in of the API of OpenTelemetry: its modules are compiled
%% here, under their own names, and tell the test what they are asked for.
-module(esdb_gater_opentelemetry_tests).

-include_lib("eunit/include/eunit.hrl").
-include("../include/esdb_gater_telemetry.hrl").

-export([called/3, log/2]).

-define(TRACES, [{opentelemetry, [{get_tracer, 1}]},
                 {otel_tracer, [{start_span, 3}, {set_current_span, 2}, {current_span_ctx, 0}]},
                 {otel_span, [{set_status, 3}, {add_event, 3}, {end_span, 1}]},
                 {otel_ctx, [{get_current, 0}, {attach, 1}, {detach, 1}]}]).
-define(METRICS, [{opentelemetry_experimental, [{get_meter, 1}]},
                  {otel_meter, [{create_counter, 3}, {create_histogram, 3}]}]).

a_request_is_a_span_and_what_it_does_is_a_child_of_it_test() ->
    with_api(?TRACES, fun() ->
        ok = esdb_gater_opentelemetry:attach(),
        Outer = otel_tracer:start_span(tracer, <<"outer">>, #{}),
        Token = otel_ctx:attach(otel_tracer:set_current_span(otel_ctx:get_current(), Outer)),
        {ok, done} = execute(fun(_Worker) ->
            {ok, nested} = execute(fun(_) -> {ok, nested} end),
            {ok, done}
        end),
        %% The context of the caller is as it was.
        ?assertEqual(Outer, otel_tracer:current_span_ctx()),
        ok = otel_ctx:detach(Token),
        [{Outer, none, <<"outer">>, _},
         {Request, Outer, <<"esdb_gater execute">>, #{kind := client, attributes := Attributes}},
         {Nested, Request, <<"esdb_gater execute">>, _}] = told(started),
        ?assertEqual(#{'esdb_gater.store_id' => store, 'esdb_gater.request_type' => execute},
                     Attributes),
        ?assertEqual([Nested, Request], told(ended)),
        ?assertEqual([], told(status))
    end).

a_failed_request_and_its_retries_are_told_test() ->
    with_api(?TRACES, fun() ->
        ok = esdb_gater_opentelemetry:attach(),
        Config = esdb_gater_retry:new_config(1, 2, 2),
        {error, {retries_exhausted, {broken, _}}} =
            esdb_gater_api:execute(store, fun(_) -> {error, {broken, lists:duplicate(5000, x)}} end,
                                   Config),
        [{Span, none, _, _}] = told(started),
        ?assertEqual([Span], told(ended)),
        [{Span, <<"retry">>, #{'esdb_gater.attempt' := 1}},
         {Span, <<"retries exhausted">>, #{'esdb_gater.attempts' := 2, 'esdb_gater.reason' := Reason}}] =
            told(event),
        ?assert(byte_size(Reason) < 300),
        [{Span, error, Text}] = told(status),
        ?assert(byte_size(Text) < 300)
    end).

a_request_that_crashes_ends_its_span_test() ->
    with_api(?TRACES, fun() ->
        ok = esdb_gater_opentelemetry:attach(),
        ?assertError(on_purpose, execute(fun(_) -> error(on_purpose) end)),
        [{Span, none, _, _}] = told(started),
        ?assertEqual([Span], told(ended)),
        ?assertMatch([{Span, error, _}], told(status)),
        ?assertEqual(none, otel_tracer:current_span_ctx())
    end).

a_handler_that_was_attached_during_a_request_ends_no_span_test() ->
    with_api(?TRACES, fun() ->
        {ok, done} = execute(fun(_) -> ok = esdb_gater_opentelemetry:attach(), {ok, done} end),
        ?assertEqual({[], []}, {told(started), told(ended)})
    end).

events_are_counted_and_durations_recorded_with_either_version_of_the_api_test() ->
    [with_api(?TRACES ++ ?METRICS ++ [{otel_counter, [{add, Arity}]}, {otel_histogram, [{record, Arity}]}],
        fun() ->
            ok = esdb_gater_opentelemetry:attach(),
            {ok, done} = execute(fun(_) -> {ok, done} end),
            Pid = self(),
            ok = esdb_gater_telemetry:emit(?GATER_WORKER_REGISTERED, #{system_time => 1},
                                           #{store_id => store, node => node(), pid => Pid}),
            ok = esdb_gater_telemetry:emit(?GATER_CHANNEL_DROPPED, #{count => 7},
                                           #{channel => c, lane => low, node => node(),
                                             reason => queue_full}),
            ok = esdb_gater_telemetry:emit(?GATER_CHANNEL_BROADCAST, #{recipient_count => 3},
                                           #{channel => c, topic => <<"any of millions">>}),
            Created = lists:sort(told(instrument)),
            [{'esdb_gater.worker.lookup.duration', _, #{store_id := store}},
             {'esdb_gater.request.duration', Micros, Meta}] = told(histogram),
            ?assert(is_integer(Micros)),
            ?assertEqual(#{store_id => store, request_type => execute, result => success}, Meta),
            Counted = told(counter),
            ?assertEqual([{'esdb_gater.worker.registered', 1, #{store_id => store}},
                          {'esdb_gater.channel.dropped', 7,
                           #{channel => c, lane => low, reason => queue_full}},
                          {'esdb_gater.channel.broadcast', 1, #{channel => c}}], Counted),
            [?assert(lists:member(Name, Created)) || {Name, _, _} <- Counted]
        end) || Arity <- [4, 5]].

every_event_has_an_instrument_test() ->
    with_api(?TRACES ++ ?METRICS ++ [{otel_counter, [{add, 5}]}, {otel_histogram, [{record, 5}]}], fun() ->
        ok = esdb_gater_opentelemetry:attach(),
        Created = told(instrument),
        Measured = #{system_time => 1, duration => 1, count => 1, attempt => 1, delay_ms => 1,
                     total_attempts => 1, recipient_count => 1},
        Meta = #{store_id => store, request_type => execute, result => success, reason => r, node => n,
                 member_count => 1, gateway_count => 1, channel => c, topic => <<"t">>, lane => low,
                 pid => self(), alarm => a, severity => s, subject => undefined, text => <<>>,
                 next_step => <<>>},
        [ok = esdb_gater_telemetry:emit(Event, Measured, Meta) || Event <- esdb_gater_telemetry:events()],
        Used = [Name || Kind <- [counter, histogram], {Name, _, _} <- told(Kind)],
        ?assertEqual(length(esdb_gater_telemetry:events()) - 1, length(Used)),
        ?assertEqual([], Used -- (Created ++ Created)),
        %% It was not detached.
        ?assertEqual(ok, esdb_gater_opentelemetry:detach())
    end).

without_the_api_the_log_says_so_and_nothing_is_attached_test() ->
    ok = logger:add_handler(?MODULE, ?MODULE, #{config => self()}),
    try
        ok = esdb_gater_telemetry:use_configured([opentelemetry]),
        receive {logged, warning, Text} ->
            ?assertMatch({match, _}, re:run(Text, "opentelemetry_api is not there"))
        end,
        ?assertEqual({error, not_found}, esdb_gater_opentelemetry:detach())
    after
        ok = logger:remove_handler(?MODULE)
    end.

%%% Helpers

execute(Fun) -> esdb_gater_api:execute(store, Fun, esdb_gater_retry:new_config(1, 2, 1)).

%% With a worker, and the API as it is here.
with_api(Api, Fun) ->
    Tables = [ets:new(Name, Options)
              || {Name, Options} <- esdb_gater_workers:tables() ++ esdb_gater_shared_state:tables()],
    ok = esdb_gater_shared_state:set(mirror, ready),
    Worker = spawn(fun() -> receive stop -> ok end end),
    true = esdb_gater_workers:add(store, Worker),
    [ok = install(Module, Functions) || {Module, Functions} <- Api],
    _ = erase(current),
    try
        Fun()
    after
        _ = esdb_gater_opentelemetry:detach(),
        [begin true = code:delete(Module), code:purge(Module) end || {Module, _} <- Api],
        Worker ! stop,
        lists:foreach(fun ets:delete/1, Tables),
        flush()
    end.

install(Module, Functions) ->
    Arguments = fun(Arity) -> [{var, 1, list_to_atom("A" ++ integer_to_list(I))}
                               || I <- lists:seq(1, Arity)] end,
    List = fun(Terms) -> lists:foldr(fun(T, Acc) -> {cons, 1, T, Acc} end, {nil, 1}, Terms) end,
    Forms = [{attribute, 1, module, Module}, {attribute, 1, export, Functions}
             | [{function, 1, Name, Arity,
                 [{clause, 1, Arguments(Arity), [],
                   [{call, 1, {remote, 1, {atom, 1, ?MODULE}, {atom, 1, called}},
                     [{atom, 1, Module}, {atom, 1, Name}, List(Arguments(Arity))]}]}]}
                || {Name, Arity} <- Functions]],
    {ok, Module, Code} = compile:forms(Forms, []),
    {module, Module} = code:load_binary(Module, "stand-in", Code),
    ok.

%% @private The API. A context is the current span.
called(opentelemetry, get_tracer, [erl_esdb_gater]) -> tracer;
called(otel_tracer, start_span, [tracer, Name, Options]) ->
    Span = {span, make_ref()},
    tell({started, {Span, called(otel_ctx, get_current, []), Name, Options}}),
    Span;
called(otel_tracer, set_current_span, [_Context, Span]) -> Span;
called(otel_tracer, current_span_ctx, []) -> called(otel_ctx, get_current, []);
called(otel_ctx, get_current, []) ->
    case get(current) of undefined -> none; Span -> Span end;
called(otel_ctx, attach, [Context]) ->
    Before = called(otel_ctx, get_current, []),
    _ = put(current, Context),
    {token, Before};
called(otel_ctx, detach, [{token, Before}]) -> _ = put(current, Before), ok;
called(otel_span, set_status, [{span, _} = Span, error, Text]) when is_binary(Text) ->
    tell({status, {Span, error, Text}});
called(otel_span, add_event, [{span, _} = Span, Name, Attributes]) when is_binary(Name) ->
    tell({event, {Span, Name, Attributes}});
called(otel_span, end_span, [{span, _} = Span]) -> tell({ended, Span}), Span;
called(opentelemetry_experimental, get_meter, [erl_esdb_gater]) -> meter;
called(otel_meter, _Create, [meter, Name, Options]) when is_atom(Name), is_map(Options) ->
    tell({instrument, Name});
called(otel_counter, add, [_Context, meter | Recorded]) -> tell({counter, list_to_tuple(Recorded)});
called(otel_counter, add, [meter | Recorded]) -> tell({counter, list_to_tuple(Recorded)});
called(otel_histogram, record, [_Context, meter | Recorded]) ->
    tell({histogram, list_to_tuple(Recorded)});
called(otel_histogram, record, [meter | Recorded]) -> tell({histogram, list_to_tuple(Recorded)}).

tell(What) -> self() ! {?MODULE, What}, true.

%% What the API was told of a kind, in order.
told(Kind) ->
    receive {?MODULE, {Kind, What}} -> [What | told(Kind)]
    after 0 -> []
    end.

flush() ->
    receive {?MODULE, _} -> flush() after 0 -> ok end.

%% @private
log(#{level := Level, msg := {string, Text}}, #{config := Test}) ->
    Test ! {logged, Level, unicode:characters_to_list(Text)};
log(_Event, _Config) ->
    ok.
