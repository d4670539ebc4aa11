%% @doc A worker of the stand-in store: registers itself, and has the storage answer.
-module(standin_worker).

-behaviour(gen_server).

-export([start_link/2, start/2]).
-export([init/1, handle_call/3, handle_cast/2, terminate/2]).

-record(state, {store :: atom(), storage :: pid()}).

-spec start_link(atom(), pid()) -> {ok, pid()} | ignore | {error, term()}.
start_link(Store, Storage) -> gen_server:start_link(?MODULE, {Store, Storage}, []).

-spec start(atom(), pid()) -> {ok, pid()} | ignore | {error, term()}.
start(Store, Storage) -> gen_server:start(?MODULE, {Store, Storage}, []).

-spec init({atom(), pid()}) -> {ok, #state{}}.
init({Store, Storage}) ->
    process_flag(trap_exit, true),
    ok = esdb_gater_api:register_worker(Store, self()),
    {ok, #state{store = Store, storage = Storage}}.

-spec handle_call(term(), gen_server:from(), #state{}) -> {reply, term(), #state{}}.
handle_call(Request, _From, #state{storage = Storage} = State) ->
    {reply, gen_server:call(Storage, Request), State}.

-spec handle_cast(term(), #state{}) -> {noreply, #state{}}.
handle_cast(Request, #state{storage = Storage} = State) ->
    ok = gen_server:cast(Storage, Request),
    {noreply, State}.

-spec terminate(term(), #state{}) -> ok.
terminate(_Reason, #state{store = Store}) ->
    ok = esdb_gater_api:unregister_worker(Store, self()).
