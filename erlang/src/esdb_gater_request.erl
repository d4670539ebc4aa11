%%% @private
%%% @doc Requests to stores, by which the functions of the data API reach a worker.
%%%
%%% A request is a tuple whose first element is the name of the operation, which is also the
%%% `request_type' of telemetry events.
%%% @end
-module(esdb_gater_request).

-include_lib("kernel/include/logger.hrl").
-include("../include/esdb_gater.hrl").

-export([ask/2, ask/3, ask_any/1, tell/2, health/0, stores/0]).

%% The least time between two warnings that requests to a store were lost.
-define(WARN_EVERY_MS, 10000).

%% @doc Does the same as `ask/3' with the default retry configuration.
-spec ask(atom(), tuple()) -> esdb_gater_retry:result().
ask(StoreId, Request) ->
    ask(StoreId, Request, default).

%% @doc Calls a worker of the store, and other workers after a failure.
-spec ask(atom(), tuple(), default | esdb_gater_retry:config()) -> esdb_gater_retry:result().
ask(StoreId, Request, Config) ->
    Call = fun(Worker) -> gen_server:call(Worker, Request, ?DEFAULT_TIMEOUT) end,
    esdb_gater_api:execute_as(element(1, Request), StoreId, Call, Config).

%% @doc Calls a worker of any store.
-spec ask_any(tuple()) -> esdb_gater_retry:result().
ask_any(Request) ->
    case stores() of
        [] -> {error, no_workers};
        [StoreId | _] -> ask(StoreId, Request)
    end.

%% @doc Sends a request to one worker of the store without waiting. A request that finds no worker
%% is lost, which is logged.
-spec tell(atom(), tuple()) -> ok.
tell(StoreId, Request) ->
    Type = element(1, Request),
    Cast = fun(Worker) -> gen_server:cast(Worker, Request) end,
    case esdb_gater_api:cast_as(Type, StoreId, Cast) of
        ok -> ok;
        {error, no_workers} -> lost(StoreId, Type)
    end.

%% The first lost request is logged at once, and then their number every few seconds.
lost(StoreId, Type) ->
    Now = erlang:monotonic_time(millisecond),
    Key = {lost_requests, StoreId},
    {Count, Last} = case esdb_gater_shared_state:get(Key) of
                        {ok, Known} -> Known;
                        none -> {0, Now - ?WARN_EVERY_MS}
                    end,
    case Now - Last >= ?WARN_EVERY_MS of
        true ->
            ?LOG_WARNING("erl_esdb_gater: store ~tp has no worker, so ~tp was lost, and ~b other "
                         "requests since the last such warning; is the store registered?",
                         [StoreId, Type, Count]),
            remember(Key, {0, Now});
        false ->
            remember(Key, {Count + 1, Last})
    end.

%% While the application does not run, the count cannot be stored, and each lost request is logged.
remember(Key, Value) ->
    try esdb_gater_shared_state:set(Key, Value)
    catch error:badarg -> ok
    end.

%% @doc Returns the stores that have workers. Channels that processes of BEAMs host are registered
%% like stores but are not included.
-spec stores() -> [atom()].
stores() ->
    try [Store || Store <- lists:sort(esdb_gater_workers:stores()),
                  not esdb_channel_host:is_store(Store)]
    catch error:badarg -> []                       % the application is not running
    end.

%% @doc Returns the stores that this node knows, and the state of the registry.
-spec health() -> {ok, esdb_gater_api:health()}.
health() ->
    Stores = maps:from_list([{Store, N} || Store <- stores(),
                                           N <- [esdb_gater_workers:size(Store)], N > 0]),
    Known = #{stores => Stores, total_workers => lists:sum(maps:values(Stores)), node => node(),
              timestamp => erlang:system_time(millisecond)},
    {ok, case {esdb_gater_link:gateway(), map_size(Stores)} of
             {none, _} -> Known#{status => degraded, reason => no_gateway};
             {_, 0} -> Known#{status => degraded, reason => no_workers};
             _ -> Known#{status => healthy}
         end}.
