%%% @doc The worker registry with details of each worker. {@link esdb_gater_api} offers the same
%%% registry with fewer details.
%%%
%%% The process that is registered under the name of this module is the link of the node to a
%%% gateway. It answers the same calls as the registry of a gateway (docs/PROTOCOL.md).
%%% @end
-module(esdb_gater_worker_registry).

-include("../include/esdb_gater.hrl").

-export([register_worker/2, unregister_worker/2, get_workers/1, get_all_workers/0]).

%% @doc Does the same as {@link esdb_gater_api:register_worker/2}.
-spec register_worker(esdb_gater_api:store_id(), pid()) -> ok | {error, term()}.
register_worker(StoreId, Pid) ->
    esdb_gater_api:register_worker(StoreId, Pid).

%% @doc Does the same as {@link esdb_gater_api:unregister_worker/2}.
-spec unregister_worker(esdb_gater_api:store_id(), pid()) -> ok | {error, term()}.
unregister_worker(StoreId, Pid) ->
    esdb_gater_api:unregister_worker(StoreId, Pid).

%% @doc Returns the workers of a store in order of registration.
-spec get_workers(esdb_gater_api:store_id()) -> {ok, [#worker_entry{}]} | {error, no_gateway | badarg}.
get_workers(StoreId) ->
    case esdb_gater_api:get_workers(StoreId) of
        {ok, Workers} -> {ok, entries(StoreId, Workers)};
        {error, _} = Error -> Error
    end.

%% @doc Returns the workers of all stores that have any.
-spec get_all_workers() ->
          {ok, #{esdb_gater_api:store_id() => [#worker_entry{}]}} | {error, no_gateway}.
get_all_workers() ->
    case esdb_gater_link:await_mirror() of
        ok ->
            All = [{Store, entries(Store, esdb_gater_workers:list(Store))}
                   || Store <- esdb_gater_request:stores()],
            {ok, maps:from_list([Entry || {_, [_ | _]} = Entry <- All])};
        {error, _} = Error ->
            Error
    end.

%% A worker that has gone since it was listed is left out.
entries(StoreId, Workers) ->
    [#worker_entry{store_id = StoreId, node = Node, pid = Pid, registered_at = Since}
     || {Node, Pid} <- Workers, {ok, Since} <- [esdb_gater_workers:since(StoreId, Pid)]].
