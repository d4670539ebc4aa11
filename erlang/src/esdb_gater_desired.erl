%%% @private
%%% @doc The desired registrations: those that were made through this node and are to be kept
%%% whatever happens to gateways, as `{{Store, Pid}, active | faded | long_faded}'.
%%%
%%% A `faded' registration is one whose worker is on a node that the gateway could not reach. The
%%% gateway remembers it, and only the gateway can know whether it should return, so this node does
%%% not repeat it until the gateway offers it again.
%%%
%%% The gateway remembers such a registration for `lost_grace', by default a minute, and removes it
%%% then. A registration that has been faded for ten to twenty minutes is therefore forgotten here,
%%% and its process is no longer monitored. If a gateway offers it again even so, it is a worker
%%% like any other; only this node does not repeat it at a gateway that does not know it.
%%%
%%% The link writes the table, which belongs to {@link esdb_gater_tables} and therefore outlives the
%%% link.
%%% @end
-module(esdb_gater_desired).

-export([tables/0, add/2, remove/2, remove_process/1, mark/3, member/2, active/0, faded/0,
         forget_faded/0, processes/0, size/0]).

-define(TABLE, esdb_gater_desired).

%% @doc Returns the tables to create, as arguments of `ets:new/2'.
-spec tables() -> [{atom(), [term()]}].
tables() ->
    [{?TABLE, [set, public, named_table]}].

%% @doc Adds a registration that the gateway has accepted.
-spec add(StoreId :: atom(), pid()) -> ok.
add(Store, Pid) ->
    true = ets:insert(?TABLE, {{Store, Pid}, active}),
    ok.

%% @doc Removes a registration that is no longer desired.
-spec remove(StoreId :: atom(), pid()) -> ok.
remove(Store, Pid) ->
    true = ets:delete(?TABLE, {Store, Pid}),
    ok.

%% @doc Removes the registrations of a process that has ended. Returns the stores for which it was
%% to be registered.
-spec remove_process(pid()) -> [StoreId :: atom()].
remove_process(Pid) ->
    Stores = ets:select(?TABLE, [{{{'$1', Pid}, '_'}, [], ['$1']}]),
    lists:foreach(fun(Store) -> remove(Store, Pid) end, Stores),
    Stores.

%% @doc Marks a registration that the gateway offers (`active') or does not offer (`faded'). Unknown
%% registrations are ignored.
-spec mark(StoreId :: atom(), pid(), active | faded) -> ok.
mark(Store, Pid, Mark) ->
    _ = ets:update_element(?TABLE, {Store, Pid}, {2, Mark}),
    ok.

%% @doc Returns whether a registration is desired, faded or not.
-spec member(StoreId :: atom(), pid()) -> boolean().
member(Store, Pid) ->
    ets:member(?TABLE, {Store, Pid}).

%% @doc Returns the registrations that are to be repeated at another gateway.
-spec active() -> [{StoreId :: atom(), pid()}].
active() ->
    lists:sort(ets:select(?TABLE, [{{'$1', active}, [], ['$1']}])).

%% @doc Returns the registrations that are not repeated, because the gateway has not offered them
%% since they faded.
-spec faded() -> [{StoreId :: atom(), pid()}].
faded() ->
    ets:select(?TABLE, [{{'$1', '$2'}, [{'=/=', '$2', active}], ['$1']}]).

%% @doc Forgets the registrations that were faded when this was called the last time.
-spec forget_faded() -> ok.
forget_faded() ->
    _ = ets:match_delete(?TABLE, {'_', long_faded}),
    lists:foreach(fun(Key) -> ets:update_element(?TABLE, Key, {2, long_faded}) end, faded()).

%% @doc Returns the processes of all registrations.
-spec processes() -> [pid()].
processes() ->
    lists:usort(ets:select(?TABLE, [{{{'_', '$1'}, '_'}, [], ['$1']}])).

%% @doc Returns the number of registrations.
-spec size() -> non_neg_integer().
size() ->
    ets:info(?TABLE, size).
