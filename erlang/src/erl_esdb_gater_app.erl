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
            ok = esdb_gater_telemetry:refresh(),
            ok = esdb_gater_telemetry:use_configured(maps:get(telemetry_handlers, Config, [])),
            erl_esdb_gater_sup:start_link(Config);
        {error, Problem} ->
            ?LOG_ERROR("~ts", [esdb_gater_config:describe(Problem)],
                       #{application => erl_esdb_gater}),
            {error, Problem}
    end.

-spec stop(term()) -> ok.
stop(_State) ->
    esdb_gater_distribution:stop().
