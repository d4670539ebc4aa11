%%% @private
%%% @doc What was registered through this node and should stay registered, whatever happens to
%%% gateways: `{{Store, Pid}, active | faded | long_faded}'.
%%%
%%% A `faded' registration is one whose worker's node the gateway could not reach: the gateway
%%% remembers it, and only the gateway can know whether it should come back, so it is not
%%% repeated from here until the gateway offers it again.
%%%
%%% The gateway remembers it for `lost_grace', a minute unless configured, and removes it then; so
%%% what has faded for ten to twenty minutes is forgotten here, and its process not watched any
%%% more. Should a gateway offer it again even so, it is a worker like any other, and all that is
%%% lost is that this node repeats it with a gateway that does not know it.
%%%
%%% Written by the link; the table belongs to {@link esdb_gater_tables} and so outlives it.
%%% @end
-module(esdb_gater_desired).

-export([tables/0, add/2, remove/2, remove_process/1, mark/3, member/2, active/0, faded/0,
         forget_faded/0, processes/0, size/0]).

-define(TABLE, esdb_gater_desired).

%% @doc The tables to make, as arguments of `ets:new/2'.
-spec tables() -> [{atom(), [term()]}].
tables() ->
    [{?TABLE, [set, public, named_table]}].

%% @doc A registration the gateway has taken.
-spec add(StoreId :: atom(), pid()) -> ok.
add(Store, Pid) ->
    true = ets:insert(?TABLE, {{Store, Pid}, active}),
    ok.

%% @doc Nobody wants this one any more.
-spec remove(StoreId :: atom(), pid()) -> ok.
remove(Store, Pid) ->
    true = ets:delete(?TABLE, {Store, Pid}),
    ok.

%% @doc The process has ended. Gives the stores it was to be registered for.
-spec remove_process(pid()) -> [StoreId :: atom()].
remove_process(Pid) ->
    Stores = ets:select(?TABLE, [{{{'$1', Pid}, '_'}, [], ['$1']}]),
    lists:foreach(fun(Store) -> remove(Store, Pid) end, Stores),
    Stores.

%% @doc The gateway offers it (`active') or does not (`faded'). Ignored for what is not here.
-spec mark(StoreId :: atom(), pid(), active | faded) -> ok.
mark(Store, Pid, Mark) ->
    _ = ets:update_element(?TABLE, {Store, Pid}, {2, Mark}),
    ok.

%% @doc Whether this one is wanted, faded or not.
-spec member(StoreId :: atom(), pid()) -> boolean().
member(Store, Pid) ->
    ets:member(?TABLE, {Store, Pid}).

%% @doc What is to be registered again with another gateway.
-spec active() -> [{StoreId :: atom(), pid()}].
active() ->
    lists:sort(ets:select(?TABLE, [{{'$1', active}, [], ['$1']}])).

%% @doc What is not, because the gateway has not offered it since it faded.
-spec faded() -> [{StoreId :: atom(), pid()}].
faded() ->
    ets:select(?TABLE, [{{'$1', '$2'}, [{'=/=', '$2', active}], ['$1']}]).

%% @doc Forgets what had faded when this was called the last time.
-spec forget_faded() -> ok.
forget_faded() ->
    _ = ets:match_delete(?TABLE, {'_', long_faded}),
    lists:foreach(fun(Key) -> ets:update_element(?TABLE, Key, {2, long_faded}) end, faded()).

%% @doc The processes of all registrations.
-spec processes() -> [pid()].
processes() ->
    lists:usort(ets:select(?TABLE, [{{{'_', '$1'}, '_'}, [], ['$1']}])).

%% @doc How many there are.
-spec size() -> non_neg_integer().
size() ->
    ets:info(?TABLE, size).
