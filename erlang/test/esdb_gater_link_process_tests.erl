-module(esdb_gater_link_process_tests).

-include_lib("eunit/include/eunit.hrl").

-export([log/2]).

-define(GATEWAY, 'esdb_gater@nohost').

%% A link that has no gateway, with the tables of the application.
with_link(Fun) ->
    Tables = [ets:new(Name, Options)
              || {Name, Options} <- esdb_gater_workers:tables() ++ esdb_gater_desired:tables()
                     ++ esdb_gater_shared_state:tables() ++ esdb_gater_withdrawals:tables()],
    {ok, Link} = esdb_gater_link_process:start_link(#{mode => embedded}),
    try Fun(Link)
    after
        ok = gen_statem:stop(Link),
        lists:foreach(fun ets:delete/1, Tables)
    end.

bad_requests_to_wait_are_answered_and_hurt_nobody_test() ->
    with_link(fun(Link) ->
        ok = esdb_gater_shared_state:set(channels, #{}),
        [?assertEqual({error, {unknown_request, Bad}}, gen_server:call(Link, Bad))
         || Bad <- [{await, gateway, -1}, {await, gateway, 1 bsl 32}, {await, gateway, 1.0},
                    {await, gateway, infinity}, {await, mirror, soon},
                    {await, nothing, 0}, {await, channels, 0}, {await, [copy], 0}]],
        ?assertMatch(#{phase := idle}, gen_server:call(Link, status))
    end).

who_waits_in_vain_is_told_so_test() ->
    with_link(fun(Link) ->
        ?assertEqual({error, no_gateway}, gen_server:call(Link, {await, gateway, 0})),
        ?assertEqual({error, no_gateway}, gen_server:call(Link, {await, mirror, 1}))
    end).

the_warning_of_a_node_without_a_name_speaks_of_its_program_and_pipes_test() ->
    [begin
         Text = warning(Pipe),
         [?assertEqual({Word, match}, {Word, re:run(Text, Word, [{capture, none}])})
          || Word <- ["no connection to the gateway", "program", "pipes"]],
         [?assertEqual({Word, nomatch}, {Word, re:run(Text, Word, [{capture, none}])})
          || Word <- ["EPMD", "cookie", "its name"]]
     end || Pipe <- [none, fun(attach) -> {error, overloaded} end]].

warning(Pipe) ->
    ok = logger:add_handler(?MODULE, ?MODULE, #{config => self()}),
    try
        with_link(fun(Link) ->
            Stop = pipe(Pipe),
            ok = gen_server:cast(Link, {embedded_up, ?GATEWAY}),
            Text = receive {logged, warning, Line} -> Line end,
            Stop(),
            Text
        end)
    after
        ok = logger:remove_handler(?MODULE)
    end.

log(#{level := Level, msg := {Format, Arguments}}, #{config := Test}) when is_list(Arguments) ->
    Test ! {logged, Level, unicode:characters_to_list(io_lib:format(Format, Arguments))};
log(_Event, _Config) ->
    ok.

a_secret_is_given_to_a_gateway_that_is_about_to_serve_before_the_caller_goes_on_test() ->
    Test = self(),
    with_link(fun(Link) ->
        Stop = pipe(fun(attach) -> {ok, #{}};
                       (set_secret) -> Test ! told, ok
                    end),
        ok = gen_server:cast(Link, {embedded_up, ?GATEWAY}),
        %% It is attached, and its registry has not come.
        until(fun() -> maps:get(phase, gen_server:call(Link, status)) =:= attaching end),
        Caller = gen_server:send_request(Link, push_secret),
        ?assertEqual(timeout, gen_server:wait_response(Caller, 50)),
        _ = Link ! {esdb_gater_registry, reset, 1, []},
        receive told -> ok end,
        ?assertEqual({reply, ok}, gen_server:receive_response(Caller, 5000)),
        ?assertMatch(#{phase := attached}, gen_server:call(Link, status)),
        Stop()
    end).

a_caller_does_not_wait_for_a_gateway_that_is_lost_test() ->
    with_link(fun(Link) ->
        Stop = pipe(fun(attach) -> {ok, #{}} end),
        ok = gen_server:cast(Link, {embedded_up, ?GATEWAY}),
        until(fun() -> maps:get(phase, gen_server:call(Link, status)) =:= attaching end),
        Caller = gen_server:send_request(Link, push_secret),
        ok = gen_server:cast(Link, embedded_down),
        ?assertEqual({reply, ok}, gen_server:receive_response(Caller, 5000)),
        Stop()
    end).

%% Stands for the pipes to a gateway: closed ones, or those to a gateway that answers what it is
%% asked with the results of a function. Returns how to end them.
pipe(Answer) ->
    Pid = spawn(fun() -> serve(Answer) end),
    true = register(esdb_gater_pipe, Pid),
    fun() -> Ref = monitor(process, Pid), exit(Pid, kill), receive {'DOWN', Ref, _, _, _} -> ok end end.

serve(Answer) ->
    receive
        {'$gen_call', From, is_open} -> gen_server:reply(From, Answer =/= none);
        {'$gen_call', From, {service, _}} -> gen_server:reply(From, self());
        {'$gen_call', From, Request} when is_tuple(Request) ->
            gen_server:reply(From, Answer(element(1, Request)));
        {'$gen_call', From, ping} -> gen_server:reply(From, ok);
        _ -> ok
    end,
    serve(Answer).

until(Condition) ->
    case Condition() of
        true -> ok;
        false -> timer:sleep(5), until(Condition)
    end.
