/* usual: a program that embeds Python the usual way. It shows that what the tests plant does run. */
#include <Python.h>

int main(void)
{
    Py_InitializeEx(0);
    return Py_FinalizeEx();
}
