%%% The built-in dispatcher: the application `telemetry' is not there in these tests.
-module(esdb_gater_telemetry_tests).

-include_lib("eunit/include/eunit.hrl").
-include("../include/esdb_gater_telemetry.hrl").

-define(ID, ?MODULE).

handlers_get_every_event_of_the_application_test() ->
    Events = esdb_gater_telemetry:events(),
    ?assert(lists:member(?GATER_REQUEST_STOP, Events)),
    ?assertEqual(Events, seen(Events)).

handlers_get_no_event_that_is_not_the_applications_test() ->
    Foreign = [[my_app, request, stop], [esdb_gater], [esdb_gater, request],
               ?GATER_REQUEST_STOP ++ [more], [], [esdb_gater, mine]],
    %% The last one shows that the handler was there all the time.
    ?assertEqual([?GATER_RETRY_ATTEMPT], seen(Foreign ++ [?GATER_RETRY_ATTEMPT])).

%% What the handler would fail on does not detach it either.
a_foreign_event_does_not_detach_a_handler_test() ->
    Test = self(),
    Picky = fun(?GATER_REQUEST_STOP = Event, _, _, _) -> Test ! {seen, ?ID, Event} end,
    attached(Picky, fun() ->
        ok = esdb_gater_telemetry:emit([my_app, request, stop], #{}, #{}),
        ok = esdb_gater_telemetry:emit(?GATER_REQUEST_STOP, #{}, #{}),
        ?assertEqual([?GATER_REQUEST_STOP], received())
    end).

%% The events, of those that are emitted, that a handler gets. Handlers are called by the process
%% that emits, so that all have arrived.
seen(Events) ->
    Test = self(),
    attached(fun(Event, #{n := 1}, #{m := 2}, config) -> Test ! {seen, ?ID, Event} end, fun() ->
        [?assertEqual(ok, esdb_gater_telemetry:emit(E, #{n => 1}, #{m => 2})) || E <- Events],
        received()
    end).

attached(Handler, Then) ->
    ?assertNot(lists:keymember(telemetry, 1, application:which_applications())),
    ok = esdb_gater_telemetry:attach(?ID, Handler, config),
    try Then()
    after ?assertEqual(ok, esdb_gater_telemetry:detach(?ID))
    end.

received() ->
    receive
        {seen, ?ID, Event} -> [Event | received()]
    after 0 -> []
    end.
