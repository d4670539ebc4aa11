%%% @private
%%% @doc The application `erl_esdb_gater'.
-module(erl_esdb_gater_app).

-behaviour(application).

-include_lib("kernel/include/logger.hrl").

-export([start/2, stop/1]).

-spec start(application:start_type(), term()) -> {ok, pid()} | {error, term()}.
start(_Type, _Arguments) ->
    case esdb_gater_config:load() of
        {ok, Config} ->
            ok = esdb_pubsub_security:configure(Config),
            ok = esdb_gater_retry:configure(maps:get(retry, Config, #{})),
            ok = esdb_gater_telemetry:start_application(),
            ok = esdb_gater_telemetry:refresh(),
            ok = esdb_gater_telemetry:use_configured(maps:get(telemetry_handlers, Config, [])),
            ok = esdb_gater_config:use(Config),
            started(erl_esdb_gater_sup:start_link());
        {error, Problem} ->
            ?LOG_ERROR("~ts", [esdb_gater_config:describe(Problem)],
                       #{application => erl_esdb_gater}),
            {error, Problem}
    end.

%% The start waits for the registry, so that an application that is started afterwards finds the
%% registered workers.
started({ok, _} = Ok) ->
    _ = esdb_gater_link:await_start(),
    Ok;
started(Error) ->
    Error.

-spec stop(term()) -> ok.
stop(_State) ->
    esdb_gater_retry:forget().
