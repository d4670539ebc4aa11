%% @doc A stand-in for the library `telemetry': the functions that are used of it, with its rules.
-module(telemetry).

-behaviour(application).

-export([start/2, stop/1, attach/4, attach_many/4, detach/1, execute/3, list_handlers/1,
         install/0]).

%% @doc Makes this node believe that the application is there.
-spec install() -> ok.
install() ->
    ok = application:load({application, telemetry,
                           [{vsn, "1.0.0"}, {modules, [telemetry]}, {registered, []},
                            {applications, [kernel, stdlib]}, {mod, {telemetry, []}}]}),
    ok = application:start(telemetry).

start(_Type, _Arguments) ->
    Self = self(),
    Owner = spawn_link(fun() ->
        ets:new(?MODULE, [named_table, public, bag]),
        Self ! ready,
        receive stop -> ok end
    end),
    receive ready -> {ok, Owner} end.

stop(_State) -> ok.

attach(Id, Event, Handler, Config) -> attach_many(Id, [Event], Handler, Config).

attach_many(Id, Events, Handler, Config) ->
    case ets:match(?MODULE, {'_', Id, '_', '_'}) of
        [] -> ets:insert(?MODULE, [{Event, Id, Handler, Config} || Event <- Events]), ok;
        _ -> {error, already_exists}
    end.

detach(Id) ->
    case ets:match(?MODULE, {'_', Id, '_', '_'}) of
        [] -> {error, not_found};
        _ -> ets:match_delete(?MODULE, {'_', Id, '_', '_'}), ok
    end.

execute(Event, Measurements, Metadata) ->
    [try Handler(Event, Measurements, Metadata, Config)
     catch _:_ -> detach(Id)
     end || {_, Id, Handler, Config} <- ets:lookup(?MODULE, Event)],
    ok.

list_handlers(Prefix) ->
    [#{id => Id, event_name => Event, function => Handler, config => Config}
     || {Event, Id, Handler, Config} <- ets:tab2list(?MODULE), lists:prefix(Prefix, Event)].
