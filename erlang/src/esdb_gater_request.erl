%%% @private
%%% @doc Requests to stores: how the functions of the data API reach a worker.
%%%
%%% A request is a tuple whose first element names the operation, which is also the `request_type'
%%% of telemetry events.
%%% @end
-module(esdb_gater_request).

-include_lib("kernel/include/logger.hrl").
-include("../include/esdb_gater.hrl").

-export([ask/2, ask/3, ask_any/1, tell/2, health/0, stores/0]).

%% Between two warnings that requests to a store were lost.
-define(WARN_EVERY_MS, 10000).

%% @doc As `ask/3' with the default configuration of retries.
-spec ask(atom(), tuple()) -> esdb_gater_retry:result().
ask(StoreId, Request) ->
    ask(StoreId, Request, default).

%% @doc Calls a worker of the store, and others after a failure.
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

%% @doc Sends a request to one worker of the store and waits for nothing. A request that finds no
%% worker is lost; the log says so.
-spec tell(atom(), tuple()) -> ok.
tell(StoreId, Request) ->
    Type = element(1, Request),
    Cast = fun(Worker) -> gen_server:cast(Worker, Request) end,
    case esdb_gater_api:cast_as(Type, StoreId, Cast) of
        ok -> ok;
        {error, no_workers} -> lost(StoreId, Type)
    end.

%% The first is logged at once, then how many there were, every few seconds.
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

%% There is nowhere to remember it while the application does not run: then each is logged.
remember(Key, Value) ->
    try esdb_gater_shared_state:set(Key, Value)
    catch error:badarg -> ok
    end.

%% @doc The stores that have workers. Channels that are served by processes of BEAMs are found
%% through the registry as well and are no stores.
-spec stores() -> [atom()].
stores() ->
    try [Store || Store <- lists:sort(esdb_gater_workers:stores()),
                  not esdb_channel_host:is_store(Store)]
    catch error:badarg -> []                       % the application is not running
    end.

%% @doc What this node knows of the stores.
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
